//! Tables of the flatbuffers format, in which Arrow describes its columns: fields are found through offsets, every one of which is checked.

/// A table: its place in the buffer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table<'a> {
    bytes: &'a [u8],
    place: usize,
}

/// What every fault of a buffer is called: a place that is outside of it.
pub(super) const DAMAGED: &str = "its metadata is damaged";

type Found<T> = Result<T, &'static str>;

impl<'a> Table<'a> {
    /// The outermost table of a buffer.
    pub(super) fn root(bytes: &'a [u8]) -> Found<Self> {
        Self { bytes, place: 0 }.follow(0)
    }

    fn raw<const N: usize>(self, place: usize) -> Found<[u8; N]> {
        self.bytes.get(place..).and_then(|rest| rest.first_chunk::<N>()).copied().ok_or(DAMAGED)
    }

    /// The table that the offset at `place` leads to.
    fn follow(self, place: usize) -> Found<Self> {
        let offset = u32::from_le_bytes(self.raw(place)?) as usize;
        let place = place.checked_add(offset).filter(|&place| place < self.bytes.len()).ok_or(DAMAGED)?;
        Ok(Self { bytes: self.bytes, place })
    }

    /// Where the field of this number stands; `None` when it has its default.
    fn field(self, number: usize) -> Found<Option<usize>> {
        let back = i64::from(i32::from_le_bytes(self.raw(self.place)?));
        let index = usize::try_from(self.place as i64 - back).map_err(|_| DAMAGED)?;
        let size = usize::from(u16::from_le_bytes(self.raw(index)?));
        let entry = 4 + 2 * number;
        if entry + 2 > size {
            return Ok(None);
        }
        let offset = usize::from(u16::from_le_bytes(self.raw(index + entry)?));
        Ok((offset > 0).then_some(self.place + offset))
    }

    /// A byte, 0 by default.
    pub(super) fn byte(self, number: usize) -> Found<u8> {
        Ok(match self.field(number)? {
            Some(place) => self.raw::<1>(place)?[0],
            None => 0,
        })
    }

    /// A short integer, 0 by default.
    pub(super) fn short(self, number: usize) -> Found<i16> {
        self.field(number)?.map_or(Ok(0), |place| Ok(i16::from_le_bytes(self.raw(place)?)))
    }

    /// A long integer that counts something, 0 by default.
    pub(super) fn count(self, number: usize) -> Found<u64> {
        self.field(number)?.map_or(Ok(0), |place| self.long(place))
    }

    /// A table inside this one.
    pub(super) fn table(self, number: usize) -> Found<Option<Self>> {
        self.field(number)?.map(|place| self.follow(place)).transpose()
    }

    /// The elements of a vector, each of `size` bytes: where the first stands, and how many there are.
    fn vector(self, number: usize, size: usize) -> Found<(usize, usize)> {
        let Some(place) = self.field(number)? else { return Ok((0, 0)) };
        let start = self.follow(place)?.place;
        let length = u32::from_le_bytes(self.raw(start)?) as usize;
        let first = start + 4;
        let whole = length.checked_mul(size).and_then(|bytes| first.checked_add(bytes)).is_some_and(|end| end <= self.bytes.len());
        if whole { Ok((first, length)) } else { Err(DAMAGED) }
    }

    /// The tables of a vector of tables.
    pub(super) fn tables(self, number: usize) -> Found<impl Iterator<Item = Found<Self>>> {
        let (first, length) = self.vector(number, 4)?;
        Ok((0..length).map(move |index| self.follow(first + 4 * index)))
    }

    /// Pairs of counts: Arrow's buffers, by offset and length.
    pub(super) fn pairs(self, number: usize) -> Found<Vec<[u64; 2]>> {
        let (first, length) = self.vector(number, 16)?;
        (0..length).map(|index| Ok([self.long(first + 16 * index)?, self.long(first + 16 * index + 8)?])).collect()
    }

    /// A vector of counts.
    pub(super) fn counts(self, number: usize) -> Found<Vec<u64>> {
        let (first, length) = self.vector(number, 8)?;
        (0..length).map(|index| self.long(first + 8 * index)).collect()
    }

    fn long(self, place: usize) -> Found<u64> {
        u64::try_from(i64::from_le_bytes(self.raw(place)?)).map_err(|_| DAMAGED)
    }

    /// A text, empty by default.
    pub(super) fn text(self, number: usize) -> Found<&'a str> {
        let (first, length) = self.vector(number, 1)?;
        std::str::from_utf8(&self.bytes[first..first + length]).map_err(|_| DAMAGED)
    }
}
