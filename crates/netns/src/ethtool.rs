//! Offload features of an interface, over ethtool's netlink family (Linux 5.10 and later;
//! Documentation/networking/ethtool-netlink.rst).

use std::io;

use crate::netlink::{Conversation, Request, find_attribute};

/// `struct genlmsghdr` for a command: command, version, reserved.
fn generic_header(command: u8) -> [u8; 4] {
    [command, 1, 0, 0]
}
const GENERIC_HEADER_LEN: usize = 4;

const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_INDEX: u16 = 1;
const BITSET_BITS: u16 = 3;
const BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const NESTED: u16 = 1 << 15;

/// Switches features of an interface on or off, by the names that `ethtool -k` prints in the kernel's own spelling
/// (net/ethtool/common.c, `netdev_features_strings`). Runs in the calling thread's namespace.
pub(crate) fn set_features(index: u32, features: &[(&str, bool)]) -> io::Result<()> {
    let mut generic = Conversation::open(libc::NETLINK_GENERIC)?;
    let family = family_id(&mut generic)?;
    let mut request = Request::new(family, 0, &generic_header(FEATURES_SET));
    request.nest(FEATURES_HEADER | NESTED, &[], |header| {
        header.number(HEADER_INDEX, index);
    });
    request.nest(FEATURES_WANTED | NESTED, &[], |wanted| {
        wanted.nest(BITSET_BITS | NESTED, &[], |bits| {
            for (name, on) in features {
                bits.nest(BIT | NESTED, &[], |bit| {
                    bit.text(BIT_NAME, name);
                    if *on {
                        bit.attribute(BIT_VALUE, &[]);
                    }
                });
            }
        });
    });
    generic.ask(request)?;
    Ok(())
}

fn family_id(generic: &mut Conversation) -> io::Result<u16> {
    let control = u16::try_from(libc::GENL_ID_CTRL).expect("a fixed family number");
    let mut request = Request::new(control, 0, &generic_header(CTRL_CMD_GETFAMILY));
    request.text(CTRL_ATTR_FAMILY_NAME, "ethtool");
    let answers = generic.ask(request)?;
    let id = answers
        .first()
        .and_then(|answer| find_attribute(answer, GENERIC_HEADER_LEN, CTRL_ATTR_FAMILY_ID));
    let id = id
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(u16::from_ne_bytes(id))
}
