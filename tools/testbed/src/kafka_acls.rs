//! Access control lists of a Kafka, which librdkafka's Rust client cannot create.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

/// An operation that a user may perform on a resource, from any host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    /// The name of the user.
    pub user: String,
    /// `topic` or `group`.
    pub resource: String,
    /// The name of the topic or group. With `*` at the end: everything with this prefix.
    pub name: String,
    /// Such as `Describe`.
    pub operation: String,
}

const CREATE_ACLS: i16 = 30;
/// The last version without tagged fields.
const VERSION: i16 = 1;
const LITERAL: u8 = 3;
const PREFIXED: u8 = 4;
const ALLOW: u8 = 3;

/// Creates them with one request to this broker, whose listener must not require authentication.
pub fn create(broker: &str, acls: &[Acl]) -> Result<()> {
    let mut request = Vec::new();
    for number in [CREATE_ACLS, VERSION] {
        request.extend(number.to_be_bytes());
    }
    request.extend(0_i32.to_be_bytes());
    write_text(&mut request, "couponry-testbed")?;
    request.extend(i32::try_from(acls.len())?.to_be_bytes());
    for Acl { user, resource, name, operation } in acls {
        request.push(resource_code(resource)?);
        let (name, pattern) = name.strip_suffix('*').map_or((&**name, LITERAL), |prefix| (prefix, PREFIXED));
        write_text(&mut request, name)?;
        request.push(pattern);
        write_text(&mut request, &format!("User:{user}"))?;
        write_text(&mut request, "*")?;
        request.extend([operation_code(operation)?, ALLOW]);
    }

    let mut stream = TcpStream::connect(broker).with_context(|| format!("cannot reach the Kafka at {broker}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(&i32::try_from(request.len())?.to_be_bytes())?;
    stream.write_all(&request)?;
    let mut len = [0; 4];
    stream.read_exact(&mut len).context("Kafka did not respond to the request for ACLs")?;
    let mut response = vec![0; usize::try_from(i32::from_be_bytes(len))?];
    stream.read_exact(&mut response)?;
    check(&response, acls)
}

/// Checks the result of each: an error code and a message, which is null without an error.
fn check(response: &[u8], acls: &[Acl]) -> Result<()> {
    // After the correlation id, the throttle time and the number of results.
    let mut rest = response.get(12..).context("the response is too short")?;
    for acl in acls {
        let [code_high, code_low, len_high, len_low, tail @ ..] = rest else {
            bail!("the response has no result for {acl:?}");
        };
        let (code, len) = (i16::from_be_bytes([*code_high, *code_low]), i16::from_be_bytes([*len_high, *len_low]));
        let (message, tail) = tail.split_at_checked(usize::try_from(len).unwrap_or(0)).context("truncated message")?;
        ensure!(code == 0, "Kafka rejects {acl:?} with the code {code}: {}", String::from_utf8_lossy(message));
        rest = tail;
    }
    Ok(())
}

fn write_text(request: &mut Vec<u8>, text: &str) -> Result<()> {
    request.extend(i16::try_from(text.len())?.to_be_bytes());
    request.extend(text.as_bytes());
    Ok(())
}

fn resource_code(resource: &str) -> Result<u8> {
    Ok(match resource {
        "topic" => 2,
        "group" => 3,
        other => bail!("unknown kind of resource: {other}"),
    })
}

fn operation_code(operation: &str) -> Result<u8> {
    Ok(match operation {
        "Read" => 3,
        "Write" => 4,
        "Create" => 5,
        "Describe" => 8,
        "DescribeConfigs" => 10,
        other => bail!("unknown operation: {other}"),
    })
}
