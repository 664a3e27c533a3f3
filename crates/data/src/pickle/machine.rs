//! The stack machine that a pickle's instructions are for.

use std::collections::HashMap;

use super::{Array, Decoded, ElementType, Global, Purpose, Storage, Tables, Value, View, global, printable, text};

pub(super) struct Machine<'a> {
    purpose: Purpose,
    rest: &'a [u8],
    /// Bytes that may still be decoded: a few that are decoded again and again would fill the memory.
    decodable: usize,
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
const UNKNOWN_ARRAY: &str = "its pickle holds an array in an unknown form";

/// Files of thousands of tensors have some hundred thousand instructions; one that has more would only fill the memory.
const MAX_INSTRUCTIONS: usize = 1 << 21;

/// Tensors have no more dimensions than this.
const MAX_RANK: usize = 16;

impl<'a> Machine<'a> {
    pub(super) fn new(stream: &'a [u8], purpose: Purpose) -> Self {
        Self {
            purpose,
            rest: stream,
            // A text of Latin-1 takes two bytes for one, and its bytes one more.
            decodable: stream.len().saturating_mul(4),
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

    fn raw_line(&mut self) -> Result<&'a [u8], String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or(TRUNCATED)?;
        let line = self.take(end + 1)?;
        // Files that went through a text mode of Windows.
        Ok(line[..end].strip_suffix(b"\r").unwrap_or(&line[..end]))
    }

    fn line(&mut self) -> Result<&'a str, String> {
        std::str::from_utf8(self.raw_line()?).map_err(|_| MALFORMED.to_owned())
    }

    /// A place of the memory, written as a text.
    fn place(&mut self) -> Result<u64, String> {
        self.line()?.parse().map_err(|_| MALFORMED.to_owned())
    }

    fn decoded(&mut self, decoded: Decoded) -> Result<Value<'a>, String> {
        let length = match &decoded {
            Decoded::Text(text) => text.len(),
            Decoded::Bytes(bytes) => bytes.len(),
        };
        self.decodable = self.decodable.checked_sub(length).ok_or("its pickle decodes the same bytes again and again")?;
        self.tables.decoded.push(decoded);
        Ok(Value::Decoded(self.tables.decoded.len() - 1))
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
                let element = ElementType { kind: 'u', size: 1, is_big_endian: false };
                self.arrays.push(Array { shape: vec![0], element, is_fortran: false, content: Value::Bytes(&[]) });
                Value::Array(self.arrays.len() - 1)
            }
            (Global::FromBuffer, &[content, element, shape, order]) => {
                let is_fortran = match self.tables.text(order) {
                    Some("C") => false,
                    Some("F") => true,
                    _ => return Err(UNKNOWN_ARRAY.to_owned()),
                };
                let array = self.array_of(shape, element, is_fortran, content)?;
                self.arrays.push(array);
                Value::Array(self.arrays.len() - 1)
            }
            (Global::ElementType, &[name, ..]) => {
                // Strings of Python 2 are bytes.
                let name = self.tables.text(name).or_else(|| std::str::from_utf8(self.tables.bytes(name)?).ok());
                let element = name.and_then(ElementType::new).ok_or("its pickle holds an array of objects or texts: expected numbers")?;
                self.tables.types.push(element);
                Value::ElementType(self.tables.types.len() - 1)
            }
            (Global::Scalar, &[Value::ElementType(element), content]) => {
                let value = self.tables.bytes(content).and_then(|bytes| self.tables.types[element].value(bytes));
                value.ok_or("its pickle holds a number in an unknown form")?
            }
            (Global::Encode, &[text, encoding]) => {
                let latin = matches!(self.tables.text(encoding), Some("latin1" | "latin-1" | "iso-8859-1"));
                let text = self.tables.text(text).filter(|_| latin).ok_or(MALFORMED)?;
                if text.len() > self.decodable {
                    return Err("its pickle decodes the same bytes again and again".to_owned());
                }
                let bytes = text.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect::<Option<Vec<u8>>>();
                self.decoded(Decoded::Bytes(bytes.ok_or(MALFORMED)?))?
            }
            (Global::Bytes, []) => Value::Bytes(&[]),
            (Global::Bytes, &[bytes, ..]) if self.tables.bytes(bytes).is_some() => bytes,
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
            &[_, shape, element, Value::Bool(is_fortran), content] => self.array_of(shape, element, is_fortran, content),
            _ => Err(UNKNOWN_ARRAY.to_owned()),
        }
    }

    /// An array whose elements are as many as its shape says.
    fn array_of(&self, shape: Value<'a>, element: Value<'a>, is_fortran: bool, content: Value<'a>) -> Result<Array<'a>, String> {
        let (Value::ElementType(element), Some(bytes)) = (element, self.tables.bytes(content)) else {
            return Err(UNKNOWN_ARRAY.to_owned());
        };
        let (shape, element) = (self.integers(shape)?, self.tables.types[element]);
        let size = |length: i64| usize::try_from(length).ok();
        let length = shape.iter().try_fold(element.size, |product, &length| product.checked_mul(size(length)?));
        if length != Some(bytes.len()) {
            return Err(format!("its pickle holds an array of the shape {shape:?} in {} bytes", bytes.len()));
        }
        Ok(Array { shape, element, is_fortran, content })
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
                b'2' => self.stack.push(self.top()?),
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
                b'I' => {
                    let value = match self.line()? {
                        "00" => Value::Bool(false),
                        "01" => Value::Bool(true),
                        number => whole_number(number)?,
                    };
                    self.stack.push(value);
                }
                b'L' => {
                    let number = self.line()?;
                    self.stack.push(whole_number(number.strip_suffix('L').unwrap_or(number))?);
                }
                b'F' => {
                    let number = self.line()?.parse().map_err(|_| MALFORMED)?;
                    self.stack.push(Value::Float(number));
                }
                // A text, borrowed where it is written as it is.
                b'V' => {
                    let line = self.raw_line()?;
                    let plain = std::str::from_utf8(line).ok().filter(|line| line.is_ascii() && !line.contains('\\'));
                    let text = match plain {
                        Some(text) => Value::Text(text),
                        None => self.decoded(Decoded::Text(text::raw_unicode_escape(line).ok_or(MALFORMED)?))?,
                    };
                    self.stack.push(text);
                }
                b'S' if self.purpose == Purpose::Arrays => {
                    let line = self.raw_line()?;
                    let bytes = self.decoded(Decoded::Bytes(text::quoted(line).ok_or(MALFORMED)?))?;
                    self.stack.push(bytes);
                }
                0x8a | 0x8b => {
                    let length = self.number(if instruction == 0x8a { 1 } else { 4 })? as usize;
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
                b'B' | b'C' | 0x8e | 0x96 | b'T' | b'U' if self.purpose == Purpose::Arrays || !matches!(instruction, b'T' | b'U') => {
                    let length = self.number(match instruction {
                        b'B' | b'T' => 4,
                        b'C' | b'U' => 1,
                        _ => 8,
                    })?;
                    let bytes = self.take(usize::try_from(length).map_err(|_| TRUNCATED)?)?;
                    self.stack.push(if self.purpose == Purpose::Arrays { Value::Bytes(bytes) } else { Value::Opaque });
                }
                // Bytes that must not be changed: nothing changes them here.
                0x98 => _ = self.top()?,
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.global(module, name)?;
                }
                0x93 => match (self.pop()?, self.pop()?) {
                    (Value::Text(name), Value::Text(module)) => self.global(module, name)?,
                    _ => return Err(MALFORMED.to_owned()),
                },
                b'p' | b'q' | b'r' | 0x94 => {
                    let place = match instruction {
                        b'p' => self.place()?,
                        b'q' => self.number(1)?,
                        b'r' => self.number(4)?,
                        _ => self.memo.len() as u64,
                    };
                    self.memo.insert(place, self.top()?);
                }
                b'g' | b'h' | b'j' => {
                    let place = match instruction {
                        b'g' => self.place()?,
                        b'h' => self.number(1)?,
                        _ => self.number(4)?,
                    };
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
                b'l' => {
                    let start = self.since_mark()?;
                    let items = self.stack.drain(start..).collect();
                    self.tables.lists.push(items);
                    self.stack.push(Value::List(self.tables.lists.len() - 1));
                }
                b'd' => {
                    let start = self.since_mark()?;
                    let dict = self.new_dict();
                    self.stack.insert(start, dict);
                    self.set_items(start + 1)?;
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
                    } else if let Value::ElementType(place) = self.top()? {
                        // The state of a type: a version, and which byte comes first.
                        let order = self.elements_of(state)?.get(1).copied().unwrap_or(Value::None);
                        self.tables.types[place].is_big_endian =
                            self.tables.text(order) == Some(">") || self.tables.bytes(order) == Some(b">");
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

/// A whole number as it is written; one of more than 64 bits is not looked into.
fn whole_number<'a>(digits: &str) -> Result<Value<'a>, String> {
    let unsigned = digits.strip_prefix('-').unwrap_or(digits);
    if unsigned.is_empty() || !unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(MALFORMED.to_owned());
    }
    Ok(digits.parse().map_or(Value::Opaque, Value::Int))
}
