//! Header fields as HTTP/2 has them.

/// Fields in their order, in one piece of memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    /// RFC 9113 section 10.5.1: names, values, and 32 bytes for each field.
    size: usize,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    name: u32,
    value: u32,
    never: bool,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Field<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
    /// It may never be put into a table (RFC 7541 section 7.1.3).
    pub never: bool,
}

/// What a field counts for besides its bytes.
pub(super) const OVERHEAD: usize = 32;

impl Fields {
    /// Adds a field.
    pub fn push(&mut self, name: &[u8], value: &[u8], never: bool) {
        self.bytes.extend_from_slice(name);
        let name_end = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.end(name_end, never);
    }

    /// Adds the field that `write` appends; it returns where its name ends.
    pub(super) fn push_with(
        &mut self,
        never: bool,
        write: impl FnOnce(&mut Vec<u8>) -> Option<usize>,
    ) -> Option<()> {
        let name_end = write(&mut self.bytes)?;
        self.end(name_end, never);
        Some(())
    }

    fn end(&mut self, name_end: usize, never: bool) {
        let start = self.spans.last().map_or(0, |span| span.value as usize);
        self.size += self.bytes.len() - start + OVERHEAD;
        let (name, value) = (name_end as u32, self.bytes.len() as u32);
        self.spans.push(Span { name, value, never });
    }

    /// Counts a field that is not added.
    pub(super) fn count(&mut self, name: &[u8], value: &[u8]) {
        self.size += name.len() + value.len() + OVERHEAD;
    }

    /// The newest field.
    pub(super) fn last(&self) -> Option<Field<'_>> {
        self.spans.len().checked_sub(1).map(|at| self.at(at))
    }

    /// Takes the newest field back.
    pub(super) fn pop(&mut self) {
        if self.spans.pop().is_some() {
            let end = self.spans.last().map_or(0, |span| span.value as usize);
            self.bytes.truncate(end);
        }
    }

    fn at(&self, at: usize) -> Field<'_> {
        let span = self.spans[at];
        let start = at.checked_sub(1).map_or(0, |before| self.spans[before].value as usize);
        Field {
            name: &self.bytes[start..span.name as usize],
            value: &self.bytes[span.name as usize..span.value as usize],
            never: span.never,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        (0..self.spans.len()).map(|at| self.at(at))
    }

    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Bytes as a limit counts them, of all that was ever added.
    pub fn size(&self) -> usize {
        self.size
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
        self.size = 0;
    }
}
