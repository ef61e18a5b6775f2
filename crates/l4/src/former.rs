//! What a former daemon left: found, judged, and taken over or refused before anything is touched.

use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData, MapInfo};
use weir_l4_common::family::{V4, V6};
use weir_l4_common::record::{LAYOUT_VERSION, Layout, NAMESPACE, SEED, VERSION};
use weir_l4_common::session::{LINES, Set4, Set6};
use weir_model::L4;

use crate::error::{Error, chain};
use crate::line::{Cells, Line};
use crate::memory::{Mapped, Shared};
use crate::object::{CLIENTS, KEPT, LAYOUT, SESSIONS4, SESSIONS6, TableSizes, table_sessions};
use crate::pin::{Pins, namespace_cookie, unpin_link};

/// What a daemon needs to know of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Former {
    /// The seed of the session tables' hash.
    pub(crate) seed: u64,
    /// How large the tables are, those included that are made anew.
    pub(crate) sizes: TableSizes,
    /// Whether the tables of IPv4 and IPv6 are taken over.
    has_table: [bool; 2],
    /// Whether the table of clients is.
    has_clients: bool,
}

impl Former {
    /// Whether a map is taken over; of those that are kept.
    pub(crate) fn has(&self, map: &str) -> bool {
        match map {
            SESSIONS4 => self.has_table[0],
            SESSIONS6 => self.has_table[1],
            CLIENTS => self.has_clients,
            _ => true,
        }
    }

    /// Bytes of the tables that are taken over.
    pub(crate) fn bytes(&self) -> u64 {
        let TableSizes { sets4, sets6, .. } = self.sizes;
        let tables = [
            u64::from(sets4) * size_of::<Set4>() as u64,
            u64::from(sets6) * size_of::<Set6>() as u64,
        ];
        let taken = tables.iter().zip(self.has_table);
        taken.filter(|(_, has)| *has).map(|(bytes, _)| bytes).sum()
    }
}

/// Looks for what a former daemon left in the node's folder. `None`: nothing of use, and the folder is empty now.
pub(crate) fn find(pins: &Pins, wanted: TableSizes, l4: &L4) -> Result<Option<Former>, Error> {
    let Some(layout) = layout(pins)? else {
        return clean(pins);
    };
    match layout[VERSION] {
        // Killed while it was making them.
        0 => return clean(pins),
        LAYOUT_VERSION => {}
        version => {
            return Err(refused(
                pins,
                format!("its maps have layout {version}, those of this one {LAYOUT_VERSION}"),
            ));
        }
    }
    if layout[NAMESPACE] != namespace_cookie()? {
        for link in pins.links()? {
            if link.ifindex()? != 0 {
                return Err(Error::Elsewhere(pins.dir().to_owned()));
            }
        }
        return clean(pins);
    }
    let asked = ("max_sessions", l4.max_sessions);
    let (sets4, has4) = table::<V4>(pins, SESSIONS4, wanted.sets4, asked)?;
    let asked = ("max_sessions_ipv6", l4.max_sessions_ipv6);
    let (sets6, has6) = table::<V6>(pins, SESSIONS6, wanted.sets6, asked)?;
    let former = Former {
        seed: layout[SEED],
        sizes: TableSizes {
            sets4,
            sets6,
            ..wanted
        },
        has_table: [has4, has6],
        // In another size it is made anew: those with sessions are remembered again within a second.
        has_clients: info(pins, CLIENTS)?
            .is_some_and(|clients| clients.max_entries() == wanted.client_sets),
    };
    for map in KEPT.iter().filter(|map| former.has(map.name)) {
        let Some(info) = info(pins, map.name)? else {
            return Err(refused(pins, format!("map {} is missing", map.name)));
        };
        let (found, wanted) = (
            (info.value_size() as usize, info.max_entries()),
            (map.value_bytes, map.entries(former.sizes)),
        );
        if found != wanted {
            return Err(refused(
                pins,
                format!(
                    "map {} has {} values of {} bytes, and should have {} of {}",
                    map.name, found.1, found.0, wanted.1, wanted.0
                ),
            ));
        }
    }
    Ok(Some(former))
}

/// How many sets a table has from now on, and whether that is the one that is there. One without sessions is made anew
/// in the size that is wanted; one that is larger than wanted stays while it has some.
fn table<F: Cells>(
    pins: &Pins,
    name: &'static str,
    wanted: u32,
    (key, sessions): (&'static str, u32),
) -> Result<(u32, bool), Error>
where
    Line<F>: Shared,
{
    let Some(info) = info(pins, name)? else {
        return Ok((wanted, false));
    };
    let found = info.max_entries();
    if found == wanted {
        return Ok((found, true));
    }
    if info.value_size() as usize != LINES * size_of::<Line<F>>() {
        let what = format!("map {name} has values of {} bytes", info.value_size());
        return Err(refused(pins, what));
    }
    let map = MapData::from_pin(pins.map(name)).map_err(Error::map(name))?;
    let lines: Mapped<Line<F>> = Mapped::new(map.fd().as_fd(), found as usize * LINES)
        .map_err(Error::system("map a session table into memory"))?;
    if !lines.iter().any(|line| line.meta().is_occupied()) {
        return Ok((wanted, false));
    }
    let former = table_sessions(found);
    if found < wanted {
        return Err(Error::TableSize {
            dir: pins.dir().to_owned(),
            key,
            former,
            wanted: sessions,
        });
    }
    tracing::warn!(
        "{key} = {sessions}: the session table has sessions, and stays as large as it was, for {former}"
    );
    Ok((found, true))
}

fn refused(pins: &Pins, what: String) -> Error {
    Error::Layout {
        dir: pins.dir().to_owned(),
        what,
    }
}

/// Removes what is of no use.
fn clean(pins: &Pins) -> Result<Option<Former>, Error> {
    for link in pins.links()? {
        unpin_link(&link.path)?;
    }
    pins.remove_maps()?;
    Ok(None)
}

fn layout(pins: &Pins) -> Result<Option<Layout>, Error> {
    match info(pins, LAYOUT)? {
        None => return Ok(None),
        Some(info) if info.value_size() as usize == size_of::<Layout>() => {}
        Some(info) => {
            let what = format!("map {LAYOUT} has values of {} bytes", info.value_size());
            return Err(refused(pins, what));
        }
    }
    let read = || {
        let data = MapData::from_pin(pins.map(LAYOUT))?;
        let map: Array<MapData, Layout> = Map::from_map_data(data)?.try_into()?;
        map.get(&0, 0)
    };
    read().map(Some).map_err(Error::map(LAYOUT))
}

fn info(pins: &Pins, name: &'static str) -> Result<Option<MapInfo>, Error> {
    let path = pins.map(name);
    if !path.exists() {
        return Ok(None);
    }
    MapInfo::from_pin(&path).map(Some).map_err(|error| {
        let what = format!("map {name} cannot be read: {}", chain(&error));
        refused(pins, what)
    })
}
