//! Heads of requests and answers, strictly read (RFC 9113 section 8).

use http::uri::{self, Authority, PathAndQuery};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, Version};

use super::fields::{Field, Fields};

/// A request's.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    pub method: &'a str,
    pub scheme: &'a str,
    pub authority: Option<&'a str>,
    pub path: &'a str,
    /// What Content-Length says.
    pub length: Option<u64>,
    pub fields: Vec<Field<'a>>,
}

/// An answer's.
#[derive(Debug)]
pub(crate) struct Answer<'a> {
    pub status: u16,
    pub length: Option<u64>,
    pub fields: Vec<Field<'a>>,
}

/// What a head is made of.
#[derive(Default)]
struct Parts<'a> {
    pseudo: [Option<&'a [u8]>; PSEUDO.len()],
    length: Option<u64>,
    fields: Vec<Field<'a>>,
}

const PSEUDO: [&[u8]; 5] = [b":method", b":scheme", b":authority", b":path", b":status"];

/// Fields that are about a connection of HTTP/1 (section 8.2.2).
const OF_CONNECTION: [&[u8]; 5] =
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"];

impl<'a> Parts<'a> {
    fn read(fields: &'a Fields) -> Option<Parts<'a>> {
        let mut parts = Parts { fields: Vec::with_capacity(fields.len()), ..Parts::default() };
        for field in fields.iter() {
            if !field.value.iter().all(|b| matches!(b, b'\t' | b' '..=b'~' | 0x80..)) {
                return None;
            }
            if field.name.starts_with(b":") {
                let at = PSEUDO.iter().position(|name| *name == field.name)?;
                let first = parts.pseudo[at].replace(field.value).is_none();
                (first && parts.fields.is_empty()).then_some(())?;
                continue;
            }
            is_name(field.name).then_some(())?;
            match field.name {
                b"te" if field.value != b"trailers" => return None,
                b"content-length" => {
                    let length = length(field.value)?;
                    match parts.length.replace(length) {
                        None => {}
                        // The same once more means nothing.
                        Some(before) if before == length => continue,
                        Some(_) => return None,
                    }
                }
                name if OF_CONNECTION.contains(&name) => return None,
                _ => {}
            }
            parts.fields.push(field);
        }
        Some(parts)
    }
}

impl<'a> Asked<'a> {
    /// `None`: it is malformed.
    pub fn read(fields: &'a Fields) -> Option<Asked<'a>> {
        let Parts { pseudo, length, fields } = Parts::read(fields)?;
        let text = |at: usize| pseudo[at].map(std::str::from_utf8).transpose().ok();
        let (method, authority) = (text(0)??, text(2)?);
        // A CONNECT has neither scheme nor path, and anything else has both.
        let connect = method == "CONNECT";
        let (scheme, path) = match (text(1)?, text(3)?) {
            (None, None) if connect => ("", ""),
            (Some(scheme), Some(path)) if !connect && !path.is_empty() => (scheme, path),
            _ => return None,
        };
        pseudo[4].is_none().then_some(())?;
        Some(Asked { method, scheme, authority, path, length, fields })
    }

    /// The same for the engine; `None`: it is malformed.
    pub fn request<B>(&self, body: B) -> Option<Request<B>> {
        let mut parts = uri::Parts::default();
        if let Some(authority) = self.authority {
            parts.authority = Some(Authority::try_from(authority).ok()?);
        }
        if !self.path.is_empty() {
            parts.path_and_query = Some(PathAndQuery::try_from(self.path).ok()?);
            let scheme = self.scheme.parse().ok()?;
            // There is no target of a scheme and a path.
            parts.scheme = parts.authority.is_some().then_some(scheme);
        }
        let mut request = Request::new(body);
        *request.method_mut() = Method::from_bytes(self.method.as_bytes()).ok()?;
        *request.uri_mut() = Uri::from_parts(parts).ok()?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = map(&self.fields)?;
        Some(request)
    }
}

impl<'a> Answer<'a> {
    /// `None`: it is malformed.
    pub fn read(fields: &'a Fields) -> Option<Answer<'a>> {
        let Parts { pseudo, length, fields } = Parts::read(fields)?;
        let [None, None, None, None, Some([a, b, c])] = pseudo else { return None };
        let digits = [a, b, c].map(|digit| char::from(*digit).to_digit(10));
        let [Some(a @ 1..), Some(b), Some(c)] = digits else { return None };
        Some(Answer { status: (a * 100 + b * 10 + c) as u16, length, fields })
    }

    /// The same for the engine.
    pub fn response<B>(&self, body: B) -> Option<http::Response<B>> {
        let mut response = http::Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).ok()?;
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = map(&self.fields)?;
        Some(response)
    }
}

/// Trailers, for those who read them bit by bit; `None`: they are malformed.
pub(super) fn trailers(fields: &Fields) -> Option<Vec<Field<'_>>> {
    let parts = Parts::read(fields)?;
    parts.pseudo.iter().all(Option::is_none).then_some(parts.fields)
}

/// Fields as the library has them.
pub(super) fn map(fields: &[Field<'_>]) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(field.name).ok()?;
        let mut value = HeaderValue::from_bytes(field.value).ok()?;
        value.set_sensitive(field.never);
        map.append(name, value);
    }
    Some(map)
}

/// Whether this is a name in lower case (RFC 9110 section 5.6.2).
fn is_name(name: &[u8]) -> bool {
    let token =
        |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(b);
    !name.is_empty() && name.iter().all(token)
}

fn length(value: &[u8]) -> Option<u64> {
    let digits = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    digits.then(|| value.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        all.iter().for_each(|(n, v)| fields.push(n.as_bytes(), v.as_bytes(), false));
        fields
    }

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/b?c")];

    #[test]
    fn a_head_is_a_request() {
        let fields = fields(&[&GET[..], &[("te", "trailers"), ("content-length", "07")]].concat());
        let asked = Asked::read(&fields).unwrap();
        assert_eq!(asked.length, Some(7));
        let request = asked.request(()).unwrap();
        assert_eq!(
            (request.method(), request.uri().to_string()),
            (&Method::GET, "http://a/b?c".into())
        );
        assert_eq!(
            (request.version(), request.headers()["te"].to_str().unwrap()),
            (Version::HTTP_2, "trailers")
        );
    }

    #[test]
    fn malformed_heads_are_none() {
        let with = |more: &[(&str, &str)]| fields(&[&GET[..], more].concat());
        for malformed in [
            fields(&[]),
            fields(&GET[1..]),
            fields(&GET[..3]),
            fields(&[GET[0], GET[1], (":path", "")]),
            fields(&[("a", "b"), GET[0], GET[1], GET[2], GET[3]]),
            fields(&[(":method", "CONNECT"), GET[1], GET[2], GET[3]]),
            with(&[(":method", "GET")]),
            with(&[(":status", "200")]),
            with(&[(":protocol", "websocket")]),
            with(&[("A", "b")]),
            with(&[("a b", "c")]),
            with(&[("", "c")]),
            with(&[("a", "b\r\nc: d")]),
            with(&[("a", "b\0")]),
            with(&[("connection", "close")]),
            with(&[("transfer-encoding", "chunked")]),
            with(&[("te", "gzip")]),
            with(&[("content-length", "1"), ("content-length", "2")]),
            with(&[("content-length", "-1")]),
            with(&[("content-length", "")]),
        ] {
            assert!(Asked::read(&malformed).is_none(), "{malformed:?}");
        }
        let connect = fields(&[(":method", "CONNECT"), GET[2]]);
        assert!(Asked::read(&connect).unwrap().request(()).is_some());
        let spaced = fields(&[GET[0], GET[1], GET[2], (":path", "/a b")]);
        assert!(Asked::read(&spaced).unwrap().request(()).is_none());
    }

    #[test]
    fn an_answer_has_a_status_and_trailers_have_none() {
        let of = |all| Answer::read(&fields(all)).map(|answer| answer.status);
        assert_eq!(of(&[(":status", "204"), ("a", "b")]), Some(204));
        for malformed in [
            &[("a", "b")][..],
            &[(":status", "20")],
            &[(":status", "2000")],
            &[(":status", "abc")],
            &[(":status", "099")],
            &[(":status", "200"), (":path", "/")],
            &[(":status", "200"), ("upgrade", "x")],
        ] {
            assert_eq!(of(malformed), None, "{malformed:?}");
        }
        assert!(trailers(&fields(&[("a", "b")])).is_some());
        assert!(trailers(&fields(&[(":status", "200")])).is_none());
    }
}
