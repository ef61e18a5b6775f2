//! `http2` of listeners.

use std::ops::RangeInclusive;

use toml::de::DeValue;

use super::diagnostic::{Complaint, Findings};
use super::section::{Grammar, Section, integer, wrong_type};
use crate::http2::Http2;

pub(super) static HTTP2: Grammar = Grammar {
    title: "`http2`",
    keys: &[
        "enabled",
        "websocket",
        "streams",
        "stream_window_bytes",
        "continuations",
        "resets",
        "made_resets",
        "pings",
        "settings",
        "empty_data",
        "tiny_windows",
        "idle_frames",
    ],
    synonyms: &[
        ("enable", "enabled"),
        ("max_concurrent_streams", "streams"),
        ("max_streams", "streams"),
        ("initial_window_size", "stream_window_bytes"),
        ("websockets", "websocket"),
    ],
    example: "http2 = { streams = 128 }",
};

/// One is not enough for anything that a browser does, and more than these are memory for whoever asks for it.
const STREAMS: RangeInclusive<u32> = 1..=1_000;
/// From what HTTP/2 begins with to what the bodies of a whole connection may fill.
const STREAM_WINDOW_BYTES: RangeInclusive<u32> = 65_535..=1_048_576;
const CONTINUATIONS: RangeInclusive<u32> = 0..=1_000;
const IN_TEN_SECONDS: RangeInclusive<u32> = 0..=1_000_000;

pub(super) fn read_http2(section: &Section<'_>, out: &mut Findings<'_>) -> Http2 {
    let default = Http2::default();
    let mut switch = |key, default| {
        let read = section.read(key, out, boolean(key));
        read.good().map_or(default, |at| at.value)
    };
    let enabled = switch("enabled", default.enabled);
    let websocket = switch("websocket", default.websocket);
    let mut number = |key, range: RangeInclusive<u32>, default| {
        let read = section.read(key, out, integer(key, *range.start(), *range.end()));
        read.good().map_or(default, |at| at.value)
    };
    Http2 {
        enabled,
        websocket,
        streams: number("streams", STREAMS, default.streams),
        stream_window_bytes: number(
            "stream_window_bytes",
            STREAM_WINDOW_BYTES,
            default.stream_window_bytes,
        ),
        continuations: number("continuations", CONTINUATIONS, default.continuations),
        resets: number("resets", IN_TEN_SECONDS, default.resets),
        made_resets: number("made_resets", IN_TEN_SECONDS, default.made_resets),
        pings: number("pings", IN_TEN_SECONDS, default.pings),
        settings: number("settings", IN_TEN_SECONDS, default.settings),
        empty_data: number("empty_data", IN_TEN_SECONDS, default.empty_data),
        tiny_windows: number("tiny_windows", IN_TEN_SECONDS, default.tiny_windows),
        idle_frames: number("idle_frames", IN_TEN_SECONDS, default.idle_frames),
    }
}

/// Takes `true` or `false`.
fn boolean(key: &str) -> impl Fn(&DeValue<'_>) -> Result<bool, Complaint> {
    move |value| match value {
        DeValue::Boolean(value) => Ok(*value),
        other => Err(wrong_type(&format!("`{key}`"), "`true` or `false`", other)),
    }
}
