//! [`Node`] → typed values, by serde, with the line of what does not fit and the path of every
//! field that the type does not know.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{
    Deserialize, DeserializeOwned, Deserializer, EnumAccess, Error, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use crate::document::{Node, Value};

/// A value that does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Line in the document, when known.
    pub line: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

/// Reads a value, and the dotted paths of the fields that nothing read.
pub(crate) fn decode<T: DeserializeOwned>(node: &Node) -> Result<(T, Vec<String>), Misfit> {
    let mut unread = Vec::new();
    let value = serde_ignored::deserialize(node, |path| unread.push(plain(&path)))?;
    Ok((value, unread))
}

/// The path without serde_ignored's marks for options and newtypes.
fn plain(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    let (parent, step) = match path {
        Path::Root => return String::new(),
        Path::Seq { parent, index } => (plain(parent), index.to_string()),
        Path::Map { parent, key } => (plain(parent), key.clone()),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => return plain(parent),
    };
    if parent.is_empty() { step } else { format!("{parent}.{step}") }
}

/// A field that is known, not carried out, and only asked for its presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unread;

impl<'de> Deserialize<'de> for Unread {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnreadVisitor)
    }
}

/// Not `IgnoredAny`, which would count as a field that nothing knows.
struct UnreadVisitor;

impl<'de> Visitor<'de> for UnreadVisitor {
    type Value = Unread;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E: Error>(self) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Unread, E> {
        Ok(Unread)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unread, A::Error> {
        while seq.next_element::<Unread>()?.is_some() {}
        Ok(Unread)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unread, A::Error> {
        while map.next_entry::<String, Unread>()?.is_some() {}
        Ok(Unread)
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Misfit {}

impl Error for Misfit {
    fn custom<T: fmt::Display>(reason: T) -> Self {
        Self { line: None, reason: reason.to_string() }
    }
}

impl Misfit {
    /// Fills in the line, unless something deeper knew it better.
    fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl Node {
    fn visit<'de, V: Visitor<'de>>(&'de self, visitor: V) -> Result<V::Value, Misfit> {
        let visited = match &self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(SeqDeserializer::new(items.iter())),
            Value::Map(entries) => visitor
                .visit_map(MapDeserializer::new(entries.iter().map(|e| (e.key.as_str(), &e.node)))),
        };
        visited.map_err(|error| error.at(self.line))
    }
}

impl<'de> IntoDeserializer<'de, Misfit> for &'de Node {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.visit(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self).map_err(|error| error.at(self.line)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self).map_err(|error| error.at(self.line))
    }

    /// Only from a mapping: what serde derives would take a sequence for the fields in their order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::List(_) => Err(Misfit::invalid_type(Unexpected::Seq, &visitor).at(self.line)),
            _ => self.visit(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match &self.value {
            Value::Text(text) => visitor.visit_enum(Name(text)),
            _ => Err(Error::invalid_type(Unexpected::Other("not text"), &"a name")),
        }
        .map_err(|error: Misfit| error.at(self.line))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit
        unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

/// The name of an enum variant without content, the only kind that these formats have.
struct Name<'a>(&'a str);

impl<'de> EnumAccess<'de> for Name<'de> {
    type Error = Misfit;
    type Variant = NoContent;

    fn variant_seed<S: serde::de::DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, NoContent), Misfit> {
        let name: StrDeserializer<'de, Misfit> = self.0.into_deserializer();
        Ok((seed.deserialize(name)?, NoContent))
    }
}

struct NoContent;

impl<'de> VariantAccess<'de> for NoContent {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        Ok(())
    }

    fn newtype_variant_seed<S: serde::de::DeserializeSeed<'de>>(
        self,
        _: S,
    ) -> Result<S::Value, Misfit> {
        Err(Error::custom("expected a name alone"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Misfit> {
        Err(Error::custom("expected a name alone"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Misfit> {
        Err(Error::custom("expected a name alone"))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "camelCase")]
    struct Sample {
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
        later: Option<Unread>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    struct Inner {
        port: Option<u16>,
    }

    fn sample(text: &str) -> Result<(Sample, Vec<String>), Misfit> {
        decode(&crate::document::parse(text).unwrap().unwrap())
    }

    #[test]
    fn unknown_fields_come_with_their_path() {
        let (sample, unread) =
            sample("name: x\nlater: {a: [{b: 1}]}\ninner:\n- port: 1\n  odd: 2\nmore: [1]\n")
                .unwrap();
        assert_eq!(sample.inner, [Inner { port: Some(1) }]);
        assert_eq!(sample.later, Some(Unread));
        assert_eq!(unread, ["inner.0.odd", "more"]);
    }

    #[test]
    fn misfits_know_their_line() {
        for (text, line, reason) in [
            ("name: 1\n", 1, "invalid type: integer `1`, expected a string"),
            ("name: x\ninner:\n- port: 70000\n", 3, "invalid value: integer `70000`, expected u16"),
            ("a: x\ninner:\n- port: 7\n", 1, "missing field `name`"),
            ("name: x\ninner:\n- [7]\n", 3, "invalid type: sequence, expected struct Inner"),
            ("name: x\ninner:\n- 5\n", 3, "invalid type: integer `5`, expected struct Inner"),
        ] {
            let misfit = sample(text).unwrap_err();
            assert_eq!((misfit.line, misfit.reason.as_str()), (Some(line), reason), "{text}");
        }
    }
}
