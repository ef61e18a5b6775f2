//! How a pool's work is spread and guarded: the grammar of the keys of `[[pool]]` beyond its backends and checks.

use toml::de::DeValue;

use super::diagnostic::{Complaint, Findings, Kind, quoted};
use super::near::nearest;
use super::section::{Read, Section, wrong_type};
use crate::pool::HashKey;

/// The longest name of a header field or cookie; servers' own limits for whole heads are not much longer.
const MAX_FIELD_NAME: usize = 128;

/// A character of a token: RFC 9110, section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Reads `hash = "address"`, `"uri"`, `{ header = "x-user" }`, `{ cookie = "sid" }`.
pub(super) fn read_hash(section: &Section<'_>, out: &mut Findings<'_>) -> Read<HashKey> {
    section.read("hash", out, hash_key)
}

fn hash_key(value: &DeValue<'_>) -> Result<HashKey, Complaint> {
    const LABEL: &str = "expected `\"address\"`, `\"address_port\"`, `\"uri\"`, `{ header = \"x-user\" }` or `{ cookie = \"sid\" }`";
    let invalid = |message: String| Complaint::new(Kind::InvalidValue, message, LABEL);
    match value {
        DeValue::String(word) => match word.as_ref() {
            "address" => Ok(HashKey::Address),
            "address_port" => Ok(HashKey::AddressPort),
            "uri" => Ok(HashKey::Uri),
            "header" => Err(
                invalid("`hash` by header needs the header's name".to_owned())
                    .help("write `hash = { header = \"x-user\" }`"),
            ),
            "cookie" => Err(
                invalid("`hash` by cookie needs the cookie's name".to_owned())
                    .help("write `hash = { cookie = \"sid\" }`"),
            ),
            other => {
                let meant = match other {
                    "source" | "ip" | "client" | "src" => Some("address"),
                    "url" | "path" => Some("uri"),
                    _ => nearest(other, ["address", "address_port", "uri"]),
                };
                let help = meant.map(|word| format!("did you mean `\"{word}\"`?"));
                Err(invalid(format!("unknown `hash` {}", quoted(other))).maybe_help(help))
            }
        },
        DeValue::Table(table) => {
            let mut entries = table.iter();
            let (Some((key, found)), None) = (entries.next(), entries.next()) else {
                return Err(invalid("`hash` has not one key".to_owned()));
            };
            let key = key.get_ref().as_ref();
            let make: fn(String) -> HashKey = match key {
                "header" => |name| HashKey::Header(name.to_ascii_lowercase()),
                "cookie" => HashKey::Cookie,
                other => {
                    let help = nearest(other, ["header", "cookie"])
                        .map(|near| format!("did you mean `{near}`?"));
                    let message = format!("unknown key {} in `hash`", quoted(other));
                    return Err(Complaint::new(Kind::UnknownKey, message, LABEL).maybe_help(help));
                }
            };
            let Some(name) = found.get_ref().as_str() else {
                return Err(wrong_type(&format!("`{key}`"), "a string", found.get_ref()));
            };
            if name.is_empty() || name.len() > MAX_FIELD_NAME || !name.bytes().all(is_token_byte) {
                return Err(invalid(format!(
                    "{} is not a name for a {key}",
                    quoted(name)
                )));
            }
            Ok(make(name.to_owned()))
        }
        other => Err(wrong_type("`hash`", "a string or a table", other)),
    }
}
