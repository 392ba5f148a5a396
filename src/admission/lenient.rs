//! Reading JSON that may be anything: a value of the wrong type counts as absent, a later duplicate
//! key replaces an earlier one (as in Go), and nothing is copied unless it has an escape.
//!
//! The API server always sends well-typed objects. Being lenient keeps a hostile body from turning
//! into an error answer, and so from turning into a refused Pod. serde's derived code cannot be used:
//! it fails on duplicate keys and on `null` lists, and `Option<Cow<str>>` copies.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A JSON object read field by field.
pub(super) trait Fields<'de>: Default {
    /// Takes the value of `key` from `map`, or skips it.
    fn field<A>(&mut self, key: Cow<'de, str>, map: &mut A) -> Result<(), A::Error>
    where
        A: MapAccess<'de>;
}

/// A JSON array read element by element.
pub(super) trait Items<'de>: Default {
    /// Takes the next element from `seq`; `None` at the end.
    fn item<A: SeqAccess<'de>>(&mut self, seq: &mut A) -> Result<Option<()>, A::Error>;
}

/// `T` from an object; `None` from anything else.
pub(super) struct Object<T>(pub(super) Option<T>);

/// `T` from an array; `None` from `null`; the wrong types are told apart because appending to them
/// would fail.
pub(super) enum Array<T> {
    /// A JSON array.
    Items(T),
    /// `null`.
    Null,
    /// Neither.
    WrongType,
}

/// A string, borrowed unless it has an escape; `None` from anything else.
pub(super) struct Text<'de>(pub(super) Option<Cow<'de, str>>);

/// Skips a value that nobody asked for.
pub(super) fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(drop)
}

/// The `visit_*` methods of types that no lenient reader wants.
macro_rules! wrong_type_is {
    ($value:expr) => {
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("any JSON")
        }
        fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
            Ok($value)
        }
        fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
            Ok($value)
        }
    };
}

fn drain_seq<'de, A: SeqAccess<'de>>(mut seq: A) -> Result<(), A::Error> {
    while seq.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

fn drain_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

impl<'de, T: Fields<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(ObjectVisitor(PhantomData))
            .map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Fields<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Option<T>;
    wrong_type_is!(None);
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        drain_seq(seq).map(|()| None)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = T::default();
        while let Some(Text(key)) = map.next_key()? {
            // serde_json only yields string keys; a key that is none is nobody's field.
            object.field(key.unwrap_or_default(), &mut map)?;
        }
        Ok(Some(object))
    }
}

impl<'de, T: Items<'de>> Deserialize<'de> for Array<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ArrayVisitor(PhantomData))
    }
}

struct ArrayVisitor<T>(PhantomData<T>);

impl<'de, T: Items<'de>> Visitor<'de> for ArrayVisitor<T> {
    type Value = Array<T>;
    wrong_type_is!(Array::WrongType);
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Array::Null)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(Array::WrongType)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        drain_map(map).map(|()| Array::WrongType)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = T::default();
        while items.item(&mut seq)?.is_some() {}
        Ok(Array::Items(items))
    }
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextVisitor).map(Self)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Option<Cow<'de, str>>;
    wrong_type_is!(None);
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Borrowed(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Cow::Owned(text.to_owned())))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
        drain_seq(seq).map(|()| None)
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        drain_map(map).map(|()| None)
    }
}
