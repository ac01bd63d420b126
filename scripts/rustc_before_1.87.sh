#!/bin/sh
# cargo's RUSTC_WRAPPER for Rust 1.85 and 1.86: scripts/rustc_before_1.87.sh RUSTC [arguments].
# Of what came with Rust 1.87, llguidance and toktrie use one function, is_multiple_of of unsigned integers. These
# compilers have it too, under the same definition, not yet declared stable; these two crates may use it, and nothing
# else that is not stable. So every Rust builds the same versions of the crates, and no machine gets other masks.
case ${CARGO_CRATE_NAME:-} in
  llguidance | toktrie)
    RUSTC_BOOTSTRAP=1 exec "$@" -Zcrate-attr='feature(unsigned_is_multiple_of)' -Zallow-features=unsigned_is_multiple_of
    ;;
esac
exec "$@"
