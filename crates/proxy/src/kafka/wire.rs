//! Reading Kafka's types from bytes that may be anything (KIP-482; Kafka's protocol guide, "Protocol
//! Primitive Types"). Nothing is allocated by what a length says.

use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::limits::KAFKA_ITEMS;

/// Why something cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The bytes end too early.
    Short,
    /// It is not what it should be, or more than is taken.
    Broken(&'static str),
}

impl Fault {
    /// What is said of it where no more bytes will come.
    pub fn reason(self) -> &'static str {
        match self {
            Fault::Short => "it is cut off",
            Fault::Broken(reason) => reason,
        }
    }
}

pub(crate) type Read<T> = Result<T, Fault>;

/// A place in the bytes of a message.
#[derive(Debug, Clone)]
pub(crate) struct Wire<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Lengths are variable, and fields with tags may follow.
    pub flexible: bool,
    /// Bytes of the message that are not here yet.
    pub beyond: usize,
    /// Elements of lists so far.
    pub items: usize,
}

impl<'a> Wire<'a> {
    pub fn new(bytes: &'a [u8]) -> Wire<'a> {
        Wire { bytes, at: 0, flexible: false, beyond: 0, items: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> usize {
        self.at
    }

    pub fn take(&mut self, n: usize) -> Read<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..n).ok_or(Fault::Short)?;
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as long as it was asked for"))
    }

    pub fn i8(&mut self) -> Read<i8> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Read<i16> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Read<i32> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn uuid(&mut self) -> Read<Uuid> {
        self.array().map(Uuid::from_bytes)
    }

    pub fn varint(&mut self) -> Read<u32> {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let [byte] = self.array()?;
            if shift == 28 && byte > 0x0f {
                return Err(Fault::Broken("a number has more than 32 bits"));
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        Ok(value)
    }

    /// A length before that many bytes or elements; `None`: null.
    fn length(&mut self, fixed: fn(&mut Self) -> Read<i32>) -> Read<Option<usize>> {
        if self.flexible {
            return Ok(self.varint()?.checked_sub(1).map(|n| n as usize));
        }
        match fixed(self)? {
            -1 => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| Fault::Broken("a length is negative")),
        }
    }

    pub fn nullable_text(&mut self) -> Read<Option<StrBytes>> {
        let Some(n) = self.length(|wire| wire.i16().map(i32::from))? else { return Ok(None) };
        let text = std::str::from_utf8(self.take(n)?);
        let text = text.map_err(|_| Fault::Broken("a text is not UTF-8"))?;
        Ok(Some(StrBytes::from_string(text.to_owned())))
    }

    pub fn text(&mut self) -> Read<StrBytes> {
        self.nullable_text()?.ok_or(Fault::Broken("a text is null"))
    }

    /// The length of bytes that follow; null has none.
    pub fn bytes_length(&mut self) -> Read<usize> {
        let n = self.length(Self::i32)?.unwrap_or(0);
        let fits = n <= self.bytes.len() - self.at + self.beyond;
        fits.then_some(n).ok_or(Fault::Broken("a length goes past the end"))
    }

    /// How many elements follow; `None`: the list is null.
    pub fn nullable_count(&mut self) -> Read<Option<usize>> {
        let Some(n) = self.length(Self::i32)? else { return Ok(None) };
        // an element has one byte at least
        if n > self.bytes.len() - self.at + self.beyond {
            return Err(Fault::Broken("a list goes past the end"));
        }
        self.items = self.items.saturating_add(n);
        if self.items > KAFKA_ITEMS {
            return Err(Fault::Broken("it has too many topics and partitions"));
        }
        Ok(Some(n))
    }

    pub fn count(&mut self) -> Read<usize> {
        self.nullable_count()?.ok_or(Fault::Broken("a list is null"))
    }

    pub fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let mut elements = Vec::new();
        for _ in 0..self.count()? {
            elements.push(element(self)?);
        }
        Ok(elements)
    }

    /// Fields with tags, which say nothing of what is read here.
    pub fn tags(&mut self) -> Read<()> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            self.varint()?;
            let n = self.varint()?;
            self.take(n as usize)?;
        }
        Ok(())
    }
}

/// Appends how many elements follow.
pub(crate) fn put_count(to: &mut Vec<u8>, n: usize, flexible: bool) {
    if !flexible {
        return to.extend((n as i32).to_be_bytes());
    }
    let mut rest = n as u32 + 1;
    while rest >= 0x80 {
        to.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    to.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_variable_length() {
        for (bytes, value) in [
            (&[0][..], Ok(0)),
            (&[0x7f], Ok(127)),
            (&[0x80, 1], Ok(128)),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], Ok(u32::MAX)),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], Err(Fault::Broken("a number has more than 32 bits"))),
            (&[0x80], Err(Fault::Short)),
        ] {
            assert_eq!(Wire::new(bytes).varint(), value, "{bytes:?}");
        }
        for n in [0, 1, 126, 127, 128, 16_382, 16_383, 1 << 20] {
            let mut bytes = Vec::new();
            put_count(&mut bytes, n, true);
            assert_eq!(Wire::new(&bytes).varint(), Ok(n as u32 + 1));
        }
    }

    #[test]
    fn lengths_are_believed_only_as_far_as_there_are_bytes() {
        let huge = [0x7f, 0xff, 0xff, 0xff, 0];
        let past = Fault::Broken("a list goes past the end");
        assert_eq!(Wire::new(&huge).count(), Err(past));
        assert_eq!(Wire { flexible: true, ..Wire::new(&huge[1..]) }.count(), Err(past));
        assert_eq!(Wire::new(&[0x7f, 0xff]).text(), Err(Fault::Short));
        assert_eq!(Wire::new(&[0xff, 0xff]).nullable_text(), Ok(None));
        assert_eq!(Wire::new(&[0xff, 0xfe]).text(), Err(Fault::Broken("a length is negative")));
        assert_eq!(Wire::new(&[0, 1, 0xff]).text(), Err(Fault::Broken("a text is not UTF-8")));
        let many = Wire { beyond: KAFKA_ITEMS + 1, ..Wire::new(&[0, 2, 0, 1]) }.count();
        assert_eq!(many, Err(Fault::Broken("it has too many topics and partitions")));
    }
}
