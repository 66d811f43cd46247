//! Build script of nginx-module: the cfg values of the nginx that it is built against, and the C shim with its
//! bindings. It reads what nginx-sys found out (`DEP_NGINX_*`) and fetches nothing.

use std::env;
use std::path::PathBuf;

const SHIM: &str = "csrc/shim.h";

fn main() {
    nginx_cfg();
    let cflags = nginx_cflags();
    c_shim(&cflags);
    shim_bindings(&cflags);
}

fn dep(name: &str) -> Option<String> {
    let name = format!("DEP_NGINX_{name}");
    println!("cargo::rerun-if-env-changed={name}");
    env::var(name).ok()
}

/// `cfg(ngx_feature = "…")`, and `cfg(nginx1_23)` where header fields are linked lists.
fn nginx_cfg() {
    println!("cargo::rustc-check-cfg=cfg(nginx1_23)");
    let version: u64 = dep("VERSION_NUMBER")
        .and_then(|version| version.parse().ok())
        .expect("nginx-sys is a direct dependency and gives DEP_NGINX_VERSION_NUMBER");
    if version >= 1_023_000 {
        println!("cargo::rustc-cfg=nginx1_23");
    }
}

/// The include folders and macro definitions that nginx itself was configured with.
fn nginx_cflags() -> Vec<String> {
    let include = dep("INCLUDE").expect("nginx-sys gives DEP_NGINX_INCLUDE");
    let mut flags: Vec<String> =
        env::split_paths(&include).map(|path| format!("-I{}", path.display())).collect();
    // nginx-sys 0.5 prints `cargo:metadata=cflags=…`, which arrives under the name METADATA.
    let metadata = dep("METADATA").and_then(|text| text.strip_prefix("cflags=").map(str::to_owned));
    let defines = dep("CFLAGS").or(metadata).unwrap_or_default();
    flags.extend(defines.split_whitespace().map(str::to_owned));
    flags
}

fn c_shim(cflags: &[String]) {
    println!("cargo::rerun-if-changed={SHIM}");
    println!("cargo::rerun-if-changed=csrc/shim.c");
    println!("cargo::rerun-if-changed=../build.rs");
    let mut build = cc::Build::new();
    for flag in cflags {
        build.flag(flag);
    }
    build.file("csrc/shim.c").warnings(false).compile("ngx_http_jwt_shim");
}

fn shim_bindings(cflags: &[String]) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("shim.rs");
    bindgen::Builder::default()
        .header(SHIM)
        .clang_args(cflags)
        .allowlist_function("ngx_http_jwt_shim_.*")
        .allowlist_var("NGX_HTTP_JWT_SHIM_.*")
        // The types are nginx-sys's, so that both sets of bindings agree.
        .allowlist_recursively(false)
        .use_core()
        .generate()
        .expect("bindings of csrc/shim.h")
        .write_to_file(&out)
        .unwrap_or_else(|error| panic!("{}: {error}", out.display()));
}
