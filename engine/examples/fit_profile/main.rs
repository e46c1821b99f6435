//! Fits a profile's laws to published operator tables and prints them as TOML.
//!
//!     cargo run --release -p knee-engine --example fit_profile -- DIR DEVICE
//!
//! DIR holds `aiconfigurator/` and `vidur/`; DEVICE is an embedded profile, whose data sheet is kept.

mod tables;

use std::path::Path;

use engine::profile::DeviceProfile;
use tables::{OPERATORS, Row, error, rows};

/// The coefficients that an operator's rows decide.
fn coefficients<'a>(device: &'a mut DeviceProfile, operator: &str) -> Vec<&'a mut f64> {
    match operator {
        "gemm" => {
            let law = &mut device.gemm;
            vec![&mut law.start_us, &mut law.compute, &mut law.memory]
        }
        "prefill_attention" => {
            let law = &mut device.prefill_attention;
            vec![&mut law.start_us, &mut law.compute, &mut law.tile_pairs]
        }
        "decode_attention" => {
            let law = &mut device.decode_attention;
            vec![&mut law.start_us, &mut law.memory, &mut law.head_ns]
        }
        "node" => vec![&mut device.node.start_us, &mut device.node.bandwidth],
        "network" => vec![&mut device.network.start_us, &mut device.network.bandwidth],
        _ => {
            let law =
                device.all_reduce.iter_mut().find(|l| operator.ends_with(&format!("_{}", l.ranks)));
            law.map(|l| vec![&mut l.start_us, &mut l.bandwidth])
                .expect("a law for each measured number of ranks")
        }
    }
}

/// Mean |ln(predicted / measured)|: a factor too slow weighs as much as one too fast, and outliers only once.
fn loss(device: &DeviceProfile, rows: &[Row]) -> f64 {
    rows.iter().map(|r| (r.run.predict(device) / r.seconds).ln().abs()).sum::<f64>()
        / rows.len() as f64
}

/// Pattern search: each coefficient up or down by a factor, the factor shrinking when nothing helps.
fn fit(device: &mut DeviceProfile, operator: &str, rows: &[Row]) {
    let (mut best, mut step) = (loss(device, rows), 0.5_f64);
    while step > 1e-4 {
        let mut improved = false;
        for i in 0..coefficients(device, operator).len() {
            for factor in [1.0 + step, 1.0 / (1.0 + step)] {
                let old = *coefficients(device, operator)[i];
                *coefficients(device, operator)[i] = old * factor;
                let new = loss(device, rows);
                if new < best {
                    (best, improved) = (new, true);
                } else {
                    *coefficients(device, operator)[i] = old;
                }
            }
        }
        if !improved {
            step /= 2.0;
        }
    }
}

fn print(device: &DeviceProfile) {
    let (g, p, d) = (&device.gemm, &device.prefill_attention, &device.decode_attention);
    println!(
        "[gemm]\nstart_us = {:.2}\ncompute = {:.3}\nmemory = {:.3}\n",
        g.start_us, g.compute, g.memory
    );
    println!(
        "[prefill_attention]\nstart_us = {:.2}\ncompute = {:.3}\ntile_pairs = {:.0}\n",
        p.start_us, p.compute, p.tile_pairs
    );
    println!(
        "[decode_attention]\nstart_us = {:.2}\nmemory = {:.3}\nhead_ns = {:.1}\n",
        d.start_us, d.memory, d.head_ns
    );
    for law in &device.all_reduce {
        println!(
            "[[all_reduce]]\nranks = {}\nstart_us = {:.2}\nbandwidth = {:.1}e9\nbuffer_bytes = {}\n",
            law.ranks,
            law.start_us,
            law.bandwidth / 1e9,
            law.buffer_bytes
        );
    }
    for (name, link) in [("node", &device.node), ("network", &device.network)] {
        println!(
            "[{name}]\nstart_us = {:.2}\nbandwidth = {:.1}e9\n",
            link.start_us,
            link.bandwidth / 1e9
        );
    }
    println!("[fit]");
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, name] = arguments.as_slice() else {
        eprintln!("usage: fit_profile DIR DEVICE");
        std::process::exit(2);
    };
    let mut device = DeviceProfile::load(name).unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(2);
    });
    device.sustained = 1.0; // the tables time kernels alone
    let measured =
        OPERATORS.map(|operator| (operator, rows(Path::new(dir), &device.name, operator)));
    for (operator, rows) in &measured {
        fit(&mut device, operator, rows);
    }
    print(&device);
    for (operator, rows) in &measured {
        let e = error(&device, rows);
        println!(
            "{operator} = {{ rows = {}, median = {:.3}, p90 = {:.3} }}",
            e.rows, e.median, e.p90
        );
    }
}
