//! The stack machine that a pickle's instructions are for.

use std::collections::HashMap;

use super::{Array, Global, Purpose, Storage, Tables, Value, View, global, printable};

pub(super) struct Machine<'a> {
    purpose: Purpose,
    rest: &'a [u8],
    stack: Vec<Value<'a>>,
    /// Heights of the stack at the open marks.
    marks: Vec<usize>,
    memo: HashMap<u64, Value<'a>>,
    pub(super) tables: Tables<'a>,
    pub(super) storages: Vec<Storage<'a>>,
    pub(super) views: Vec<View>,
    pub(super) arrays: Vec<Array<'a>>,
}

const TRUNCATED: &str = "its pickle is truncated";
const MALFORMED: &str = "its pickle is malformed";

/// Files of thousands of tensors have some hundred thousand instructions; one that has more would only fill the memory.
const MAX_INSTRUCTIONS: usize = 1 << 21;

/// Tensors have no more dimensions than this.
const MAX_RANK: usize = 16;

impl<'a> Machine<'a> {
    pub(super) fn new(stream: &'a [u8], purpose: Purpose) -> Self {
        Self {
            purpose,
            rest: stream,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            tables: Tables::default(),
            storages: Vec::new(),
            views: Vec::new(),
            arrays: Vec::new(),
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
        let elements = &mut self.tables.elements;
        let first = elements.len();
        elements.extend(self.stack.drain(start..));
        self.stack.push(Value::Tuple(first, elements.len()));
    }

    fn short_tuple(&mut self, count: usize) -> Result<(), String> {
        let start = self.stack.len().checked_sub(count).filter(|&start| self.marks.last().is_none_or(|&mark| mark <= start));
        self.tuple(start.ok_or(MALFORMED)?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), String> {
        let known = global(self.purpose, module, name).ok_or_else(|| {
            let (full, noun) = (format!("{module}.{name}"), self.purpose.noun());
            format!("its pickle asks for `{}`, which {noun} does not need: refused, nothing was run", printable(&full))
        })?;
        self.stack.push(Value::Global(known));
        Ok(())
    }

    fn set_items(&mut self, start: usize) -> Result<(), String> {
        if !(self.stack.len() - start).is_multiple_of(2) {
            return Err(MALFORMED.to_owned());
        }
        match start.checked_sub(1).map(|below| self.stack[below]) {
            Some(Value::Dict(dict)) => {
                self.tables.dicts[dict].extend(self.stack[start..].as_chunks::<2>().0.iter().map(|&[key, value]| (key, value)));
            }
            Some(Value::Opaque) => (),
            _ => return Err(MALFORMED.to_owned()),
        }
        self.stack.truncate(start);
        Ok(())
    }

    /// Puts what stands from `start` on at the end of the list below it, or into a set.
    fn append(&mut self, start: usize) -> Result<(), String> {
        match start.checked_sub(1).map(|below| self.stack[below]) {
            Some(Value::List(list)) => self.tables.lists[list].extend_from_slice(&self.stack[start..]),
            Some(Value::Opaque) => (),
            _ => return Err(MALFORMED.to_owned()),
        }
        self.stack.truncate(start);
        Ok(())
    }

    fn elements_of(&self, value: Value<'a>) -> Result<&[Value<'a>], String> {
        match value {
            Value::Tuple(start, end) => Ok(&self.tables.elements[start..end]),
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
            (Global::OrderedDict, []) => self.new_dict(),
            (Global::Size, &[sizes @ Value::Tuple(..)]) => sizes,
            (Global::Opaque, _) => Value::Opaque,
            (Global::Reconstruct, _) => {
                self.arrays.push(Array::default());
                Value::Array(self.arrays.len() - 1)
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

    /// The state of an array: version, shape, type, whether columns come first, elements.
    fn array(&self, state: Value<'a>) -> Result<Array<'a>, String> {
        match self.elements_of(state)? {
            &[_, shape @ Value::Tuple(..), _, Value::Bool(false), Value::Bytes(bytes)] => Ok(Array { shape: self.integers(shape)?, bytes }),
            _ => Err("its pickle holds an array in an unknown form".to_owned()),
        }
    }

    fn new_dict(&mut self) -> Value<'a> {
        self.tables.dicts.push(Vec::new());
        Value::Dict(self.tables.dicts.len() - 1)
    }

    pub(super) fn run(&mut self) -> Result<Value<'a>, String> {
        for _ in 0..MAX_INSTRUCTIONS {
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
                        self.take(length)?;
                        self.stack.push(Value::Opaque);
                        continue;
                    }
                    let value = self.number(length)?;
                    let unused = 64 - 8 * length as u32;
                    let signed = if length == 0 { 0 } else { (value << unused) as i64 >> unused };
                    self.stack.push(Value::Int(signed));
                }
                b'G' => {
                    let bytes = self.take(8)?.try_into().map_err(|_| TRUNCATED)?;
                    self.stack.push(Value::Float(f64::from_be_bytes(bytes)));
                }
                b'X' | 0x8c | 0x8d => {
                    let text = self.text(match instruction {
                        b'X' => 4,
                        0x8c => 1,
                        _ => 8,
                    })?;
                    self.stack.push(Value::Text(text));
                }
                // Bytes, and the texts of Python 2: no state of an optimizer is kept in them.
                b'B' | b'C' | 0x8e | b'T' | b'U' if self.purpose == Purpose::Arrays || !matches!(instruction, b'T' | b'U') => {
                    let length = self.number(match instruction {
                        b'B' | b'T' => 4,
                        b'C' | b'U' => 1,
                        _ => 8,
                    })?;
                    let bytes = self.take(usize::try_from(length).map_err(|_| TRUNCATED)?)?;
                    self.stack.push(if self.purpose == Purpose::Arrays { Value::Bytes(bytes) } else { Value::Opaque });
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
                b']' => {
                    self.tables.lists.push(Vec::new());
                    self.stack.push(Value::List(self.tables.lists.len() - 1));
                }
                0x8f => self.stack.push(Value::Opaque),
                b'a' => {
                    let start = self.stack.len().checked_sub(1).ok_or(MALFORMED)?;
                    self.append(start)?;
                }
                b'e' | 0x90 => {
                    let start = self.since_mark()?;
                    self.append(start)?;
                }
                0x91 => {
                    let start = self.since_mark()?;
                    self.stack.truncate(start);
                    self.stack.push(Value::Opaque);
                }
                b'}' => {
                    let dict = self.new_dict();
                    self.stack.push(dict);
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
                b'R' | 0x81 => self.call()?,
                // The attributes of an object: a state dictionary carries the versions of its modules there, which do not matter.
                b'b' => {
                    let state = self.pop()?;
                    if let Value::Array(place) = self.top()? {
                        self.arrays[place] = self.array(state)?;
                    } else if !matches!(self.top()?, Value::Dict(_) | Value::Opaque) {
                        return Err("its pickle holds an object that is not a dictionary of tensors".to_owned());
                    }
                }
                other => {
                    return Err(format!("its pickle has the instruction {other:#04x}, which {} does not need", self.purpose.noun()));
                }
            }
        }
        Err(format!("its pickle has more than {MAX_INSTRUCTIONS} instructions, which {} does not need", self.purpose.noun()))
    }
}
