//! From what the benches left: a table and a picture. `report <criterion of the peers> <criterion of the log> <tsv>
//! <docs> <date, machine and command, one line>`; `scripts/bench-log.sh` calls it.

use std::fs;
use std::path::{Path, PathBuf};

use plotters::prelude::*;
use serde_json::Value;

const BATCHES: [u64; 4] = [1, 16, 256, 4096];
const LOGS: [&str; 3] = ["redisraft", "raft-engine", "okaywal"];
const COLOURS: [RGBColor; 3] = [RGBColor(31, 119, 180), RGBColor(255, 127, 14), RGBColor(140, 140, 140)];

/// Median time of one iteration, in nanoseconds.
fn median_ns(criterion: &Path, group: &str, bench: &str) -> f64 {
    let path = criterion.join(group).join(bench).join("new/estimates.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let estimates: Value = serde_json::from_str(&text).expect("criterion writes JSON");
    estimates["median"]["point_estimate"].as_f64().expect("a median")
}

/// A number with about four digits that count.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.0} k", v / 1e3),
        v if v >= 1e3 => format!("{:.2} k", v / 1e3),
        v if v >= 10.0 => format!("{v:.0}"),
        v => format!("{v:.2}"),
    }
}

struct Speeds {
    /// 4 KiB writes and syncs a second, measured beside each batch size.
    floor: [f64; 4],
    /// Entries a second, by batch size and log.
    logs: [[f64; 3]; 4],
    /// Of ours with its own threads.
    threads: [f64; 4],
}

fn speeds(criterion: &Path) -> Speeds {
    let per_second = |batch: u64, bench: &str, elements: u64| {
        elements as f64 * 1e9 / median_ns(criterion, &format!("append_{batch}"), bench)
    };
    Speeds {
        floor: BATCHES.map(|batch| per_second(batch, "floor", 1)),
        logs: BATCHES.map(|batch| LOGS.map(|log| per_second(batch, log, batch))),
        threads: BATCHES.map(|batch| per_second(batch, "redisraft-threads", batch)),
    }
}

/// What is wanted of a batch size, in entries a second, and in words.
fn wanted(batch: u64, floor: f64) -> (f64, String) {
    match batch {
        1 => (0.9 * floor, "0.9 F".into()),
        16 => (0.85 * 16.0 * floor, "0.85 x 16 F".into()),
        256 => (1.5e6, "1.5 M/s".into()),
        _ => (4e6, "4 M/s".into()),
    }
}

fn table(speeds: &Speeds, criterion: &Path, tsv: &Path, told: &str) -> String {
    let mut text = format!(
        "# Speed of the log\n\n{told}\n\n![Entries a second by batch size](log-speed.svg)\n\n## Appending\n\n\
         Entries of 128 bytes a second, each batch synced, each log on files it had before; F is one 4 KiB `pwrite` and \
         one `fdatasync` into a zero-filled file, measured beside each row. All \
         write in the caller's thread; the last column is ours with its own threads, as in the server: two wake-ups more.\n\n\
         | batch | F | wanted | redisraft | of wanted | raft-engine 0.4 | okaywal 0.3 | with threads |\n|---|---|---|---|---|---|---|---|\n"
    );
    for (at, batch) in BATCHES.into_iter().enumerate() {
        let (floor, [own, engine, okay]) = (speeds.floor[at], speeds.logs[at]);
        let (target, words) = wanted(batch, floor);
        text += &format!(
            "| {batch} | {} | {words} = {} | **{}** | {:.2} | {} ({:.1}x) | {} ({:.1}x) | {} |\n",
            short(floor),
            short(target),
            short(own),
            own / target,
            short(engine),
            own / engine,
            short(okay),
            own / okay,
            short(speeds.threads[at])
        );
    }
    text += "\n## Besides appending\n\n| | wanted | measured |\n|---|---|---|\n";
    let mut row =
        |name: &str, wanted: &str, measured: String| text += &format!("| {name} | {wanted} | {measured} |\n");
    let ms = |group, bench| format!("{:.2} ms", median_ns(criterion, group, bench) / 1e6);
    row("open 1,000,000 entries, every CRC checked, warm", "200 ms", ms("million", "open_warm"));
    row("the same, cold", "400 ms", ms("million", "open_cold"));
    let read_us = median_ns(criterion, "million", "random_read") / 1e3;
    row("read a random entry from its segment, median", "2 us", format!("{read_us:.2} us"));
    row("drop the last 1,000 entries, durably", "3 ms", ms("truncate", "last_1000_of_many"));
    let told = fs::read_to_string(tsv).expect("what the bench told");
    let value = |name: &str| {
        let line = told.lines().rev().find_map(|line| line.strip_prefix(&format!("{name}\t")));
        line.and_then(|line| line.split('\t').next()?.parse::<f64>().ok()).unwrap_or(f64::NAN)
    };
    let producer =
        ["p50", "p99", "p99.9", "max"].map(|name| format!("{:.1}", value(&format!("producer_{name}"))));
    row(
        "append call of the producer, 50,000 entries/s, a sync each ms: p50, p99, p99.9, max",
        "p99.9 20 us",
        format!("{} us", producer.join(", ")),
    );
    row(
        "bytes written per payload byte, batch 256, purged segments: by own count, by the kernel's",
        "1.35",
        format!("{:.2}, {:.2}", value("written_per_payload_byte"), value("written_per_payload_byte_kernel")),
    );
    text
}

/// One panel for each batch size; a line where the wanted speed is.
fn draw(speeds: &Speeds, path: &Path, told: &str) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (960, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    let style = |size: i32| ("sans-serif", size).into_font();
    root.draw(&Text::new("Entries of 128 bytes a second, each batch synced", (20, 14), style(20)))?;
    root.draw(&Text::new(told.to_string(), (20, 398), style(12).color(&BLACK.mix(0.6))))?;
    let panels = root.margin(44, 30, 10, 10).split_evenly((1, BATCHES.len()));
    for (at, (panel, batch)) in panels.iter().zip(BATCHES).enumerate() {
        let (target, words) = wanted(batch, speeds.floor[at]);
        let top = speeds.logs[at].into_iter().fold(target, f64::max) * 1.25;
        let mut chart = ChartBuilder::on(panel)
            .caption(format!("batch {batch}"), style(15))
            .margin(6)
            .x_label_area_size(24)
            .build_cartesian_2d(0.0..3.0, 0.0..top)?;
        chart.configure_mesh().disable_mesh().disable_axes().draw()?;
        for (bar, (value, colour)) in speeds.logs[at].into_iter().zip(COLOURS).enumerate() {
            let left = bar as f64;
            let corners = [(left + 0.12, 0.0), (left + 0.88, value)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
            let centred = |size| {
                use plotters::style::text_anchor::{HPos, Pos, VPos};
                TextStyle::from(style(size)).pos(Pos::new(HPos::Center, VPos::Bottom))
            };
            chart.draw_series([Text::new(short(value), (left + 0.5, value + top * 0.01), centred(13))])?;
            let pixel = chart.backend_coord(&(left + 0.5, 0.0));
            root.draw(&Text::new(LOGS[bar], (pixel.0, pixel.1 + 18), centred(12)))?;
        }
        let dashes = (0..30).map(|dash| f64::from(dash) / 10.0);
        chart.draw_series(
            dashes.map(|x| PathElement::new([(x, target), (x + 0.06, target)], RED.stroke_width(1))),
        )?;
        let label = format!("wanted {words}");
        chart.draw_series([Text::new(label, (0.05, target + top * 0.055), style(11).color(&RED))])?;
    }
    root.present()?;
    Ok(())
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [peers, own, tsv, docs, told] = &arguments[..] else {
        panic!("report <criterion of the peers> <criterion of the log> <tsv> <docs> <text>");
    };
    let speeds = speeds(Path::new(peers));
    let docs = PathBuf::from(docs);
    let table = table(&speeds, Path::new(own), Path::new(tsv), told);
    fs::write(docs.join("log-speed.md"), &table).expect("write the table");
    draw(&speeds, &docs.join("log-speed.svg"), told).expect("draw the picture");
    println!("{table}");
}
