//! Builds the BPF objects, with nothing but the stable toolchain: `weir-l4-ebpf` is compiled to LLVM bitcode for the
//! host by a cargo of its own, and bpf-linker, which uses the LLVM of this very rustc, links one object per program.

use std::env;
use std::ffi::CString;
use std::path::{Path, PathBuf};
use std::process::Command;

use bpf_linker::{Cpu, Linker, LinkerInput, LinkerOptions, OptLevel, OutputType};

/// One BPF object: what it exports, programs and maps; everything else in it is removed.
struct Object {
    name: &'static str,
    exports: &'static [&'static str],
}

const FORWARD_MAPS: &[&str] = &[
    "SESSIONS4",
    "SESSIONS6",
    "SCHEDULE",
    "BACKENDS",
    "LOADS",
    "POOLS",
    "CLIENTS",
    "CLIENT_SETS",
    "CONFIG",
    "LINKS",
    "LINK_OF",
    "LOCALS",
    "LOCALS6",
    "TUNNEL_SOURCES",
    "LISTENER_SLOTS",
    "LISTENERS",
    "VIPS",
    "FRAGMENTS",
    "REFUSALS",
    "QUIC_CONFIGS",
    "QUIC_SERVERS",
    "QUIC_WORK",
    "VLANS",
    "TAGGED",
    "DROPS",
    "LISTENER_COUNTERS",
    "BACKEND_COUNTERS",
    "OPENING4",
    "OPENING6",
    "EVENTS",
    "CLOCK",
    "CORES",
    "SPREAD",
    "SPREAD_CORES",
    "SPREAD_TO",
    "LAYOUT",
    "LISTENER_RECORDS",
    "BACKEND_RECORDS",
    "LINK_RECORDS",
    "SETS",
    "SETS6",
    "SEED",
    "FRAGMENT_TIMEOUT",
];

const OBJECTS: [Object; 3] = [
    Object {
        name: "forward",
        exports: &[
            "weir_forward",
            "weir_spread",
            "weir_forward_core",
            "weir_clock",
            "weir_find4",
            "weir_listener",
            "weir_find6",
            "weir_unusual4",
            "weir_unusual6",
            "weir_walk6",
            "weir_sum",
            "weir_clamp",
            "weir_across4",
            "weir_across6",
            "weir_across_error4",
            "weir_across_error6",
            "weir_across_open4",
            "weir_across_open6",
            "weir_refuse4",
            "weir_refuse6",
            "weir_reset4",
            "weir_reset6",
            "weir_least",
            "weir_lighter_of_two",
            "weir_known_client",
            "weir_remember_client",
            "weir_quic_backend",
            "weir_quic_decrypt",
            "weir_take_tags_off",
            "weir_finish_tagged",
            "weir_send_tagged",
            "LICENSE",
        ],
    },
    Object {
        name: "decap",
        exports: &[
            "weir_decap",
            "TUNNEL_ENDS",
            "DECAPSULATED",
            "GUE_PORT",
            "LICENSE",
        ],
    },
    Object {
        name: "bench",
        exports: &[
            "bench_generate",
            "bench_generate6",
            "bench_nothing",
            "bench_lru",
            "bench_lru_insert",
            "bench_send",
            "bench_sink",
            "bench_answer",
            "SUNK",
            "FLOWS",
            "FLOWS6",
            "PLAN",
            "NEXT",
            "REFERENCE",
            "LICENSE",
        ],
    },
];

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let source = manifest.join("../l4-ebpf");
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "../l4-common/src",
        "../l4-common/Cargo.toml",
    ] {
        println!("cargo::rerun-if-changed={}", source.join(path).display());
    }
    let bitcode = compile(&source, &out.join("ebpf"));
    for object in &OBJECTS {
        let maps: &[&str] = if object.name == "forward" {
            FORWARD_MAPS
        } else {
            &[]
        };
        let exports = object.exports.iter().chain(maps).copied();
        link(&bitcode, exports, &out.join(format!("{}.o", object.name)));
    }
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}

/// Compiles the package at `source` to one module of bitcode.
fn compile(source: &Path, target: &Path) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["rustc", "--release", "--lib", "--locked", "--manifest-path"])
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .args(["--", "--emit=llvm-bc"]);
    // What the outer build was told, flags and wrappers of lints and coverage, is not for BPF.
    for name in [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_BUILD_TARGET",
        "CLIPPY_ARGS",
    ] {
        cargo.env_remove(name);
    }
    let output = cargo
        .output()
        .unwrap_or_else(|error| panic!("run cargo: {error}"));
    assert!(
        output.status.success(),
        "compiling weir-l4-ebpf to bitcode failed:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let bitcode = target.join("release/deps/weir_l4_ebpf.bc");
    assert!(
        bitcode.exists(),
        "cargo left no bitcode at {}",
        bitcode.display()
    );
    bitcode
}

/// Links the bitcode to a BPF object of the exported symbols.
fn link<'a>(bitcode: &Path, exports: impl IntoIterator<Item = &'a str>, object: &Path) {
    let linker = Linker::new(LinkerOptions {
        target: Some(CString::new("bpfel").expect("no NUL in the target")),
        cpu: Cpu::V3,
        cpu_features: CString::default(),
        optimize: OptLevel::Aggressive,
        unroll_loops: false,
        ignore_inline_never: false,
        llvm_args: Vec::new(),
        disable_expand_memcpy_in_order: false,
        disable_memory_builtins: false,
        btf: true,
        allow_bpf_trap: false,
    });
    linker
        .link_to_file(
            [LinkerInput::new_from_file(bitcode)],
            object,
            OutputType::Object,
            exports,
        )
        .unwrap_or_else(|error| panic!("link {}: {error}", object.display()));
    assert!(
        !linker.has_errors(),
        "link {}: the linker reported errors",
        object.display()
    );
}
