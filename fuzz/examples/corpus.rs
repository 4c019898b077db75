//! Writes the corpus: `RUSTFLAGS="--cfg fuzzing" cargo run --manifest-path fuzz/Cargo.toml --example corpus`.

use redisraft_fuzz::*;
use std::fs;
use std::path::Path;

/// Name, its seeds, and what checks an input.
type Target = (&'static str, fn() -> Seeds, fn(&[u8]));

fn main() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let targets: [Target; 14] = [
        ("capture", capture::seeds, capture::check),
        ("command", command::seeds, command::check),
        ("effects", effects::seeds, effects::check),
        ("feed", feed::seeds, feed::check),
        ("handshake", handshake::seeds, handshake::check),
        ("index", index::seeds, index::check),
        ("members", members::seeds, members::check),
        ("message", message::seeds, message::check),
        ("meta", meta::seeds, meta::check),
        ("record", record::seeds, record::check),
        ("recovery", recovery::seeds, recovery::check),
        ("reply", reply::seeds, reply::check),
        ("settings", settings::seeds, settings::check),
        ("snapshot", snapshot::seeds, snapshot::check),
    ];
    for (target, seeds, check) in targets {
        let directory = corpus.join(target);
        fs::create_dir_all(&directory).expect("a directory");
        for (name, bytes) in seeds() {
            check(&bytes);
            fs::write(directory.join(name), bytes).expect("a file");
        }
    }
}
