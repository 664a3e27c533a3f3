//! A reader of the pickles that PyTorch writes for state dictionaries. It builds plain data and runs nothing: a global is a name to be
//! compared with the few that a state dictionary needs, and any other is refused.
//!
//! Memory is bounded by a small multiple of the stream's length: every instruction adds at most one value, and shared objects are
//! shared here too, where copying them would let a few bytes grow without limit.

use std::collections::HashMap;

use super::error::printable;

/// A value on the stack. Containers are places in the machine's tables, so that values are copied freely.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float,
    Text(&'a str),
    Global(Global),
    Tuple(usize, usize),
    List(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
}

/// The callables and classes that a state dictionary mentions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(&'static str),
}

/// The known globals; storages keep their class's name, which tells the type of the elements.
fn global(module: &str, name: &str) -> Option<Global> {
    const STORAGES: &[&str] = &[
        "FloatStorage",
        "HalfStorage",
        "BFloat16Storage",
        "DoubleStorage",
        "BoolStorage",
        "ByteStorage",
        "CharStorage",
        "ShortStorage",
        "IntStorage",
        "LongStorage",
    ];
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch", _) => STORAGES.iter().find(|storage| **storage == name).map(|storage| Global::Storage(storage)),
        _ => None,
    }
}

/// A stored array that tensors are views of.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Storage<'a> {
    pub(super) class: &'static str,
    pub(super) key: &'a str,
    pub(super) length: i64,
}

/// A view of a storage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) storage: usize,
    pub(super) offset: i64,
    pub(super) shape: Vec<i64>,
    pub(super) strides: Vec<i64>,
}

/// What a stream holds.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) views: Vec<View>,
    /// The entries of the outermost dictionary.
    pub(super) entries: Vec<(Value<'a>, Value<'a>)>,
}

/// Reads a stream to its end.
pub(super) fn read(stream: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine::new(stream);
    let result = machine.run()?;
    let Value::Dict(root) = result else {
        return Err(format!("its pickle holds {} instead of a dictionary of tensors", kind(result)));
    };
    let entries = std::mem::take(&mut machine.dicts[root]);
    Ok(Pickle { storages: machine.storages, views: machine.views, entries })
}

/// What a value is, in words.
pub(super) fn kind(value: Value) -> &'static str {
    match value {
        Value::None => "nothing (None)",
        Value::Bool(_) => "a truth value",
        Value::Int(_) => "an integer",
        Value::Float => "a number",
        Value::Text(_) => "a text",
        Value::Global(_) => "a class",
        Value::Tuple(..) => "a tuple",
        Value::List(_) => "a list",
        Value::Dict(_) => "a dictionary",
        Value::Storage(_) => "a storage",
        Value::Tensor(_) => "a tensor",
    }
}

struct Machine<'a> {
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    /// The elements of all tuples.
    elements: Vec<Value<'a>>,
    lists: usize,
    dicts: Vec<Vec<(Value<'a>, Value<'a>)>>,
    storages: Vec<Storage<'a>>,
    views: Vec<View>,
}

const TRUNCATED: &str = "its pickle is truncated";
const MALFORMED: &str = "its pickle is malformed";

/// Tensors have no more dimensions than this.
const MAX_RANK: usize = 16;

impl<'a> Machine<'a> {
    fn new(stream: &'a [u8]) -> Self {
        Self {
            rest: stream,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            elements: Vec::new(),
            lists: 0,
            dicts: Vec::new(),
            storages: Vec::new(),
            views: Vec::new(),
        }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or(TRUNCATED)?;
        self.rest = rest;
        Ok(taken)
    }

    fn number(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)))
    }

    fn text(&mut self, length_bytes: usize) -> Result<&'a str, String> {
        let length = usize::try_from(self.number(length_bytes)?).map_err(|_| TRUNCATED)?;
        std::str::from_utf8(self.take(length)?).map_err(|_| "its pickle holds a text that is not UTF-8".to_owned())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or(TRUNCATED)?;
        let line = self.take(end + 1)?;
        std::str::from_utf8(&line[..end]).map_err(|_| MALFORMED.to_owned())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        // Values below an open mark belong to an unfinished container.
        if self.marks.last().is_some_and(|&mark| mark >= self.stack.len()) {
            return Err(MALFORMED.to_owned());
        }
        self.stack.pop().ok_or_else(|| MALFORMED.to_owned())
    }

    fn top(&self) -> Result<Value<'a>, String> {
        self.stack.last().copied().ok_or_else(|| MALFORMED.to_owned())
    }

    fn since_mark(&mut self) -> Result<usize, String> {
        self.marks.pop().filter(|&mark| mark <= self.stack.len()).ok_or_else(|| MALFORMED.to_owned())
    }

    fn tuple(&mut self, start: usize) {
        let first = self.elements.len();
        self.elements.extend(self.stack.drain(start..));
        self.stack.push(Value::Tuple(first, self.elements.len()));
    }

    fn short_tuple(&mut self, count: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(count).filter(|&start| self.marks.last().is_none_or(|&mark| mark <= start));
        self.tuple(start.ok_or(MALFORMED)?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = global(module, name).ok_or_else(|| {
            let full = format!("{module}.{name}");
            format!("its pickle asks for `{}`, which a file of weights does not need: refused, nothing was run", printable(&full))
        })?;
        self.stack.push(Value::Global(known));
        Ok(())
    }

    fn set_items(&mut self, start: usize) -> Result<(), String> {
        if !(self.stack.len() - start).is_multiple_of(2) {
            return Err(MALFORMED.to_owned());
        }
        let items: Vec<Value> = self.stack.drain(start..).collect();
        let Value::Dict(dict) = self.top()? else { return Err(MALFORMED.to_owned()) };
        self.dicts[dict].extend(items.as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
        Ok(())
    }

    fn elements_of(&self, value: Value<'a>) -> Result<&[Value<'a>], String> {
        match value {
            Value::Tuple(start, end) => Ok(&self.elements[start..end]),
            _ => Err(MALFORMED.to_owned()),
        }
    }

    fn integers(&self, value: Value<'a>) -> Result<Vec<i64>, String> {
        let elements = self.elements_of(value)?;
        if elements.len() > MAX_RANK {
            return Err(format!("its pickle has a tensor of {} dimensions: expected at most {MAX_RANK}", elements.len()));
        }
        elements.iter().map(|element| if let Value::Int(number) = element { Ok(*number) } else { Err(MALFORMED.to_owned()) }).collect()
    }

    /// A persistent id: `("storage", class, key, device, length)`.
    fn storage(&mut self) -> Result<(), String> {
        let id = self.pop()?;
        let storage = match self.elements_of(id)? {
            [Value::Text("storage"), Value::Global(Global::Storage(class)), Value::Text(key), _, Value::Int(length)] => {
                Storage { class, key, length: *length }
            }
            _ => return Err("its pickle describes a storage in an unknown way".to_owned()),
        };
        self.stack.push(Value::Storage(self.storages.len()));
        self.storages.push(storage);
        Ok(())
    }

    fn call(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Value::Global(callable) = callable else { return Err(MALFORMED.to_owned()) };
        let result = match (callable, self.elements_of(arguments)?) {
            (Global::OrderedDict, []) => {
                self.dicts.push(Vec::new());
                Value::Dict(self.dicts.len() - 1)
            }
            (Global::RebuildTensor, &[Value::Storage(storage), Value::Int(offset), shape, strides, ..]) => {
                let view = View { storage, offset, shape: self.integers(shape)?, strides: self.integers(strides)? };
                self.views.push(view);
                Value::Tensor(self.views.len() - 1)
            }
            (Global::RebuildParameter, &[tensor @ Value::Tensor(_), ..]) => tensor,
            _ => return Err("its pickle makes an object in an unknown way".to_owned()),
        };
        self.stack.push(result);
        Ok(())
    }

    fn run(&mut self) -> Result<Value<'a>, String> {
        loop {
            let instruction = self.number(1)? as u8;
            match instruction {
                0x80 => {
                    let version = self.number(1)?;
                    if version > 5 {
                        return Err(format!("its pickle has protocol {version}: expected at most 5"));
                    }
                }
                // Frames only say how much to read at once.
                0x95 => _ = self.take(8)?,
                b'(' => self.marks.push(self.stack.len()),
                b'.' => return self.pop(),
                b'0' => _ = self.pop()?,
                b'1' => {
                    let start = self.since_mark()?;
                    self.stack.truncate(start);
                }
                b'N' => self.stack.push(Value::None),
                0x88 => self.stack.push(Value::Bool(true)),
                0x89 => self.stack.push(Value::Bool(false)),
                b'K' => {
                    let value = self.number(1)?;
                    self.stack.push(Value::Int(value as i64));
                }
                b'M' => {
                    let value = self.number(2)?;
                    self.stack.push(Value::Int(value as i64));
                }
                b'J' => {
                    let value = self.number(4)?;
                    self.stack.push(Value::Int((value as u32 as i32).into()));
                }
                0x8a => {
                    let length = self.number(1)? as usize;
                    if length > 8 {
                        return Err("its pickle holds an integer of more than 64 bits".to_owned());
                    }
                    let value = self.number(length)?;
                    let unused = 64 - 8 * length as u32;
                    let signed = if length == 0 { 0 } else { (value << unused) as i64 >> unused };
                    self.stack.push(Value::Int(signed));
                }
                b'G' => {
                    self.take(8)?;
                    self.stack.push(Value::Float);
                }
                b'X' | 0x8c | 0x8d => {
                    let text = self.text(match instruction {
                        b'X' => 4,
                        0x8c => 1,
                        _ => 8,
                    })?;
                    self.stack.push(Value::Text(text));
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                    _ => return Err(MALFORMED.to_owned()),
                },
                b'q' | b'r' | 0x94 => {
                    let place = match instruction {
                        b'q' => self.number(1)?,
                        b'r' => self.number(4)?,
                        _ => self.memo.len() as u64,
                    };
                    self.memo.insert(place, self.top()?);
                }
                b'h' | b'j' => {
                    let place = self.number(if instruction == b'h' { 1 } else { 4 })?;
                    self.stack.push(*self.memo.get(&place).ok_or(MALFORMED)?);
                }
                b')' => self.short_tuple(0)?,
                0x85..=0x87 => self.short_tuple(usize::from(instruction - 0x84))?,
                b't' => {
                    let start = self.since_mark()?;
                    self.tuple(start);
                }
                // No list of a state dictionary matters: what they hold is dropped.
                b']' => {
                    self.lists += 1;
                    self.stack.push(Value::List(self.lists));
                }
                b'a' => {
                    self.pop()?;
                    if !matches!(self.top()?, Value::List(_)) {
                        return Err(MALFORMED.to_owned());
                    }
                }
                b'e' => {
                    let start = self.since_mark()?;
                    self.stack.truncate(start);
                    if !matches!(self.top()?, Value::List(_)) {
                        return Err(MALFORMED.to_owned());
                    }
                }
                b'}' => {
                    self.dicts.push(Vec::new());
                    self.stack.push(Value::Dict(self.dicts.len() - 1));
                }
                b's' => {
                    let start = self.stack.len().checked_sub(2).ok_or(MALFORMED)?;
                    self.set_items(start)?;
                }
                b'u' => {
                    let start = self.since_mark()?;
                    self.set_items(start)?;
                }
                b'Q' => self.storage()?,
                b'R' => self.call()?,
                // The attributes of an object: a state dictionary carries the versions of its modules there, which do not matter.
                b'b' => {
                    self.pop()?;
                    if !matches!(self.top()?, Value::Dict(_)) {
                        return Err("its pickle holds an object that is not a dictionary of tensors".to_owned());
                    }
                }
                other => return Err(format!("its pickle has the instruction {other:#04x}, which a file of weights does not need")),
            }
        }
    }
}
