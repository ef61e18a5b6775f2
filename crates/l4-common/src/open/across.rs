//! The first packet of a session whose backend is of the other family: [`super`] for FullNAT, with a line in each table.

use super::{
    DONE, Opening, Rewrite, count_session, course, failed, fill, free_port, local, refuse,
};
use crate::across::{AGAIN, Across};
use crate::checksum::{difference32, fold};
use crate::drop::Drop;
use crate::env::{Env, Verdict};
use crate::family::{Family, V4, V6};
use crate::hash::{self, FlowKey};
use crate::service::Mode;
use crate::session::{ACROSS, LINES, Line};
use crate::tunnel::Tunnelled;
use crate::{load, table};

/// Another core was faster with a line of the same flow.
const LOST: u32 = u32::MAX - 2;

/// Opens the session that [`super::prepare`] has worked out up to its backend; [`AGAIN`] if the packet has a line now.
#[inline(always)]
pub fn session<F: Across>(env: impl Env) -> u64 {
    let mut code = aim::<F>(env);
    if code == DONE {
        code = F::open_lines(env);
    }
    if code == DONE {
        return AGAIN;
    }
    let Some(opening) = F::opening(env) else {
        return Verdict::Drop.bits();
    };
    // SAFETY: the environment gave this core's memory, which nobody else uses while the packet is on its way.
    refuse(env, unsafe { &*opening }, code).bits()
}

/// A local address and port of the backend's family: the reply's flow, which the memory for that family's openings keeps.
#[inline(never)]
fn aim<F: Across>(env: impl Env) -> u32 {
    let (Some(opening), Some(there)) = (F::opening(env), F::Other::opening(env)) else {
        return failed(Drop::NoBackend);
    };
    // SAFETY: as above; the two are different memory.
    let (opening, there) = unsafe { (&*opening, &mut *there) };
    let Some(backend) = F::Other::narrow(opening.backend.addr) else {
        return failed(Drop::NoBackend);
    };
    let Some(local) = local::<F::Other>(env, opening.hash) else {
        return failed(Drop::PortsExhausted);
    };
    let backend_port = u32::from(opening.backend.port);
    there.reply = FlowKey {
        src: backend,
        dst: local,
        ports: backend_port,
        udp: opening.key.udp,
    };
    // The two lines are in different tables: any slice is as good as another, and the flow's hash spreads them.
    let course = course(opening.hash, hash::slice(opening.hash));
    let port = free_port(env, &there.reply, course);
    if port == 0 {
        return failed(Drop::PortsExhausted);
    }
    there.reply.ports = backend_port | port << 16;
    there.reply_hash = there.reply.hash(env.seed());
    DONE
}

/// What both lines of the session say alike, and where each sends its packets.
struct Way {
    listener: u16,
    backend: u16,
    counted: bool,
    requests: ([u8; 6], u8),
    replies: ([u8; 6], u8),
}

impl Way {
    #[inline(always)]
    fn of<F: Tunnelled>(env: impl Env, opening: &Opening<F>) -> Self {
        Self {
            listener: opening.listener.id,
            backend: opening.number,
            counted: opening.listener.counts(),
            requests: (opening.backend.mac, opening.backend.link),
            replies: (opening.mac, env.link_of(env.ingress_ifindex()).unwrap_or(0)),
        }
    }

    #[inline(always)]
    fn rewrite<F: Tunnelled>(&self, reverse: bool, new: (F::Addr, F::Addr, u32)) -> Rewrite<F> {
        let (mac, link) = if reverse { self.replies } else { self.requests };
        Rewrite {
            new_src: new.0,
            new_dst: new.1,
            new_ports: new.2,
            mac,
            link,
            mode: Mode::Tunnel,
            reverse,
            listener: self.listener,
            backend: self.backend,
            counted: self.counted && !reverse,
        }
    }
}

/// Claims, fills and publishes both lines for a client of IPv6.
#[inline(never)]
pub(crate) fn open_lines6(env: impl Env) -> u32 {
    let (Some(opening), Some(there)) = (env.opening6(), env.opening4()) else {
        return failed(Drop::TableFull);
    };
    // SAFETY: as above.
    let (opening, there) = unsafe { (&*opening, &*there) };
    let way = Way::of(env, opening);
    let line6 = (&opening.key, opening.hash);
    let code = open_lines(env, &way, line6, (&there.reply, there.reply_hash), true);
    match code {
        // The session is there, opened by another core.
        LOST => DONE,
        code => code,
    }
}

/// The same for a client of IPv4.
#[inline(never)]
pub(crate) fn open_lines4(env: impl Env) -> u32 {
    let (Some(opening), Some(there)) = (env.opening4(), env.opening6()) else {
        return failed(Drop::TableFull);
    };
    // SAFETY: as above.
    let (opening, there) = unsafe { (&*opening, &*there) };
    let way = Way::of(env, opening);
    let line4 = (&opening.key, opening.hash);
    let code = open_lines(env, &way, (&there.reply, there.reply_hash), line4, false);
    match code {
        LOST => DONE,
        code => code,
    }
}

/// Both lines, that of IPv6 first: the other one has to name it. [`LOST`] if another core opened the same session.
#[inline(always)]
fn open_lines(
    env: impl Env,
    way: &Way,
    (key6, hash6): (&FlowKey<V6>, u64),
    (key4, hash4): (&FlowKey<V4>, u64),
    from6: bool,
) -> u32 {
    let lost = |of_client: bool| {
        if of_client {
            LOST
        } else {
            // The same port in this moment; the client's next try finds another.
            failed(Drop::PortsExhausted)
        }
    };
    let new = (
        V6::hold4(key4.dst),
        V6::hold4(key4.src),
        key4.ports.rotate_left(16),
    );
    let rewrite = way.rewrite::<V6>(!from6, new);
    let code = write(env, key6, hash6, &rewrite, delta(key6, key4));
    if code != DONE {
        return if code == LOST { lost(from6) } else { code };
    }
    let number = env.find6(key6, hash6);
    let new = (number, 0, key6.ports.rotate_left(16));
    let rewrite = way.rewrite::<V4>(from6, new);
    let code = write(env, key4, hash4, &rewrite, delta(key4, key6));
    if code != DONE {
        if let Some(line) = line6(env, number) {
            table::retire(line);
        }
        return if code == LOST { lost(!from6) } else { code };
    }
    count_session(env, way.listener, way.backend);
    DONE
}

/// The line of IPv6 with this number, from 1.
#[inline(always)]
pub(crate) fn line6(env: impl Env, number: u32) -> Option<*mut Line<V6>> {
    let index = number.checked_sub(1)?;
    let set = V6::set(env, index / LINES as u32)?;
    Some(
        set.cast::<Line<V6>>()
            .wrapping_add(index as usize & (LINES - 1)),
    )
}

/// Claims, fills and publishes one line.
#[inline(never)]
fn write<F: Across>(
    env: impl Env,
    key: &FlowKey<F>,
    hash: u64,
    rewrite: &Rewrite<F>,
    delta: u16,
) -> u32 {
    let Some(claimed) = table::claim(env, hash) else {
        return failed(Drop::TableFull);
    };
    // SAFETY: the line is claimed by us and not published.
    unsafe {
        fill(env, claimed.line.as_ptr(), key, rewrite);
        (*claimed.line.as_ptr()).l4_delta = delta;
    }
    if rewrite.counted {
        // Before it is published: user space takes off whatever it finds marked.
        load::add(env, rewrite.backend);
    }
    if table::publish(env, &claimed, hash, rewrite.bits(env, key.udp) | ACROSS) {
        DONE
    } else {
        LOST
    }
}

/// What a packet's checksum of TCP or UDP has to be changed by, if it is one of `from` and becomes one of what `answers`
/// are answers to: in the sum are addresses and ports, and nothing else that differs.
#[inline(always)]
fn delta<F: Across>(from: &FlowKey<F>, answers: &FlowKey<F::Other>) -> u16 {
    let (none, nobody) = (F::Addr::default(), <F::Other as Family>::Addr::default());
    // From addresses to zeros, and from zeros to the others: what zeros add themselves, all ones, is nothing.
    fold(
        F::difference(from.src, none)
            + F::difference(from.dst, none)
            + F::Other::difference(nobody, answers.dst)
            + F::Other::difference(nobody, answers.src)
            + difference32(from.ports, answers.ports.rotate_left(16)),
    )
}
