//! Files of small objects as `torch.save` writes them, for states that torch does not make by itself.

/// What can be written.
#[derive(Debug, Clone)]
pub(super) enum Object {
    None,
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Object>),
    Dict(Vec<(Object, Object)>),
    /// Shape and values.
    Tensor(Vec<usize>, Vec<f32>),
}

pub(super) fn int(value: i64) -> Object {
    Object::Int(value)
}

pub(super) fn text(value: &str) -> Object {
    Object::Text(value.to_owned())
}

pub(super) fn list(items: impl IntoIterator<Item = Object>) -> Object {
    Object::List(items.into_iter().collect())
}

pub(super) fn dict<const N: usize>(entries: [(&str, Object); N]) -> Object {
    Object::Dict(entries.into_iter().map(|(key, value)| (text(key), value)).collect())
}

/// The bytes of a file.
pub(super) fn write(object: &Object) -> Vec<u8> {
    let mut writer = Writer { stream: vec![0x80, 2], storages: Vec::new() };
    writer.push(object);
    writer.stream.push(b'.');
    let mut entries = vec![("archive/data.pkl".to_owned(), writer.stream)];
    entries.extend(writer.storages.into_iter().enumerate().map(|(key, content)| (format!("archive/data/{key}"), content)));
    zip(&entries)
}

struct Writer {
    stream: Vec<u8>,
    storages: Vec<Vec<u8>>,
}

impl Writer {
    fn push(&mut self, object: &Object) {
        match object {
            Object::None => self.stream.push(b'N'),
            Object::Int(value) => {
                self.stream.extend([0x8a, 8]);
                self.stream.extend(value.to_le_bytes());
            }
            Object::Float(value) => {
                self.stream.push(b'G');
                self.stream.extend(value.to_be_bytes());
            }
            Object::Text(text) => {
                self.stream.push(b'X');
                self.stream.extend((text.len() as u32).to_le_bytes());
                self.stream.extend(text.as_bytes());
            }
            Object::List(items) => {
                self.stream.extend(b"](");
                items.iter().for_each(|item| self.push(item));
                self.stream.push(b'e');
            }
            Object::Dict(entries) => {
                self.stream.extend(b"}(");
                for (key, value) in entries {
                    self.push(key);
                    self.push(value);
                }
                self.stream.push(b'u');
            }
            Object::Tensor(shape, values) => {
                let size = |number: usize| int(number as i64);
                self.stream.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
                self.push(&text("storage"));
                self.stream.extend(b"ctorch\nFloatStorage\n");
                self.push(&text(&self.storages.len().to_string()));
                self.push(&text("cpu"));
                self.push(&size(values.len()));
                self.stream.extend(b"tQ");
                self.push(&int(0));
                let strides = (0..shape.len()).map(|axis| shape[axis + 1..].iter().product());
                for numbers in [shape.clone(), strides.collect()] {
                    self.stream.push(b'(');
                    numbers.into_iter().for_each(|number| self.push(&size(number)));
                    self.stream.push(b't');
                }
                self.stream.extend(b"\x89ccollections\nOrderedDict\n)RtR");
                self.storages.push(values.iter().flat_map(|value| value.to_le_bytes()).collect());
            }
        }
    }
}

/// An archive of plain entries, without checksums.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let sizes = [content.len() as u32, content.len() as u32].map(u32::to_le_bytes).concat();
        let lengths = [name.len() as u16, 0].map(u16::to_le_bytes).concat();
        let place = (bytes.len() as u32).to_le_bytes();
        directory.extend([&b"PK\x01\x02"[..], &[0; 16], &sizes, &lengths, &[0; 10], &place, name.as_bytes()].concat());
        bytes.extend([&b"PK\x03\x04"[..], &[0; 14], &sizes, &lengths, name.as_bytes(), content].concat());
    }
    let place = bytes.len() as u32;
    let count = (entries.len() as u16).to_le_bytes();
    bytes.extend_from_slice(&directory);
    bytes.extend(
        [&b"PK\x05\x06"[..], &[0; 4], &count, &count, &(directory.len() as u32).to_le_bytes(), &place.to_le_bytes(), &[0; 2]].concat(),
    );
    bytes
}
