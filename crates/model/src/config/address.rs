//! Addresses in the config: what can be listened on, and what can be sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::diagnostic::{Complaint, Kind, quoted};

const LABEL: &str = "expected an address and a port, as `203.0.113.10:443` or `[2001:db8::1]:443`";

/// An address to listen on: a single one, or all (`0.0.0.0`, `[::]`).
pub(super) fn listen_address(key: &str, written: &str) -> Result<SocketAddr, Complaint> {
    let address = socket_address(key, written)?;
    check_unicast(address.ip(), written)?;
    Ok(address)
}

/// An address to send to.
pub(super) fn backend_address(written: &str) -> Result<SocketAddr, Complaint> {
    let address = socket_address("address", written)?;
    check_unicast(address.ip(), written)?;
    if address.ip().is_unspecified() {
        let message = format!("{} is every address of a machine", quoted(written));
        return Err(Complaint::new(
            Kind::InvalidValue,
            message,
            "expected the address of one server",
        ));
    }
    Ok(address)
}

/// An address without a port, of this node.
pub(super) fn ip_address(written: &str) -> Result<IpAddr, Complaint> {
    const LABEL: &str = "expected an address of this node, as `192.0.2.10`";
    let Ok(address) = written.parse::<IpAddr>() else {
        let complaint = Complaint::new(
            Kind::InvalidValue,
            format!("{} is not an IP address", quoted(written)),
            LABEL,
        );
        let without_mask = written.split_once('/').map(|(address, _)| address);
        let without_port = written
            .parse::<SocketAddr>()
            .ok()
            .map(|address| address.ip().to_string());
        return Err(
            match (
                without_mask.filter(|address| address.parse::<IpAddr>().is_ok()),
                without_port,
            ) {
                (Some(address), _) => {
                    complaint.help(format!("without the prefix length: `\"{address}\"`"))
                }
                (None, Some(address)) => {
                    complaint.help(format!("without the port: `\"{address}\"`"))
                }
                (None, None) => complaint,
            },
        );
    };
    check_unicast(address, written)?;
    if address.is_unspecified() || address.is_loopback() {
        let message = format!("{} cannot be a local address", quoted(written));
        return Err(Complaint::new(Kind::InvalidValue, message, LABEL));
    }
    Ok(address)
}

fn socket_address(key: &str, written: &str) -> Result<SocketAddr, Complaint> {
    if let Ok(address) = written.parse::<SocketAddr>() {
        if address.port() == 0 {
            let message = format!("`{key}` has port 0: {}", quoted(written));
            return Err(Complaint::new(
                Kind::OutOfRange,
                message,
                "expected a port from 1 to 65535",
            ));
        }
        return Ok(address);
    }
    let complaint = |message: String| Complaint::new(Kind::InvalidValue, message, LABEL);
    if let Some((_, rest)) = written.split_once("://") {
        let rest = rest.split('/').next().unwrap_or(rest);
        let message = format!("`{key}` is a URL: {}", quoted(written));
        return Err(complaint(message).help(format!(
            "write the address and the port alone: {}",
            quoted(rest)
        )));
    }
    if let Ok(address) = written.parse::<IpAddr>() {
        let message = format!("`{key}` has no port: {}", quoted(written));
        let example = SocketAddr::new(address, 80);
        return Err(complaint(message).help(format!("with port 80 it is `\"{example}\"`")));
    }
    let Some((host, port)) = written.rsplit_once(':') else {
        let message = format!("`{key}` is not an address with a port: {}", quoted(written));
        let is_port = written.parse::<u16>().is_ok();
        return Err(complaint(message).maybe_help(is_port.then(|| every_address(written))));
    };
    if !port.is_empty()
        && port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_err()
    {
        let message = format!("`{key}` has a port that is too high: {}", quoted(written));
        return Err(Complaint::new(
            Kind::OutOfRange,
            message,
            "expected a port from 1 to 65535",
        ));
    }
    if matches!(host, "" | "*") {
        let message = format!("`{key}` has no address: {}", quoted(written));
        return Err(complaint(message).help(every_address(port)));
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        let message = format!(
            "`{key}` has an IPv6 address without brackets: {}",
            quoted(written)
        );
        return Err(complaint(message).help(format!("write `\"[{host}]:{port}\"`")));
    }
    if host.bytes().any(|byte| byte.is_ascii_alphabetic()) && !host.contains(':') {
        let message = format!(
            "`{key}` has a name in place of an address: {}",
            quoted(written)
        );
        return Err(complaint(message).help("names are not resolved; write the IP address"));
    }
    Err(complaint(format!(
        "`{key}` is not an address with a port: {}",
        quoted(written)
    )))
}

fn every_address(port: &str) -> String {
    format!(
        "write `\"0.0.0.0:{port}\"` for every IPv4 address, `\"[::]:{port}\"` for every IPv6 address"
    )
}

/// Refuses what no single machine has.
fn check_unicast(address: IpAddr, written: &str) -> Result<(), Complaint> {
    let what = match address {
        IpAddr::V4(address) if address.is_multicast() => "a multicast address",
        IpAddr::V4(Ipv4Addr::BROADCAST) => "the broadcast address",
        IpAddr::V6(address) if address.is_multicast() => "a multicast address",
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(v4) => {
                let message = format!("{} is an IPv4 address in IPv6 form", quoted(written));
                let complaint =
                    Complaint::new(Kind::InvalidValue, message, "expected it in IPv4 form");
                return Err(complaint.help(format!("the address is `{v4}`")));
            }
            None => return Ok(()),
        },
        IpAddr::V4(_) => return Ok(()),
    };
    let message = format!("{} is {what}", quoted(written));
    Err(Complaint::new(
        Kind::InvalidValue,
        message,
        "expected the address of one machine",
    ))
}
