//! A network segment that several namespaces share: an Ethernet switch.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::Error;
use crate::link::{self, Link, veth};
use crate::namespace::Namespace;

/// An Ethernet switch: a bridge in a namespace of its own.
pub struct Lan {
    bridge: Link,
    mtu: u32,
    ports: AtomicU32,
}

impl Lan {
    /// Makes a switch without ports.
    pub fn new(label: &str) -> Result<Self, Error> {
        Self::with_mtu(label, 1500)
    }

    /// Makes a switch that carries packets of up to `mtu` bytes.
    pub fn with_mtu(label: &str, mtu: u32) -> Result<Self, Error> {
        let bridge = link::bridge(&Namespace::new(label)?, "br0")?;
        Ok(Self {
            bridge,
            mtu,
            ports: AtomicU32::new(0),
        })
    }

    /// Plugs a namespace in by a new interface of this name, with the switch's MTU. Whatever an XDP program on that
    /// interface sends arrives.
    pub fn connect(&self, namespace: &Namespace, name: &str) -> Result<Link, Error> {
        let number = self.ports.fetch_add(1, Ordering::Relaxed);
        let (port, link) = veth(
            (self.bridge.namespace(), &format!("port{number}")),
            (namespace, name),
        )?;
        port.set_mtu(self.mtu)?;
        link.set_mtu(self.mtu)?;
        port.accept_xdp_tx()?;
        port.join(&self.bridge)?;
        Ok(link)
    }

    /// The namespace of the switch, where a capture sees all that passes.
    pub fn namespace(&self) -> &Namespace {
        self.bridge.namespace()
    }
}
