//! Laws of every operator in every format on every device: never faster than the data sheet allows, and never faster
//! for more work; and the evidence for a time is told.

use std::sync::LazyLock;

use engine::DeviceProfile;
use engine::Shape;
use engine::config::KvDtype;
use engine::format::Format;
use engine::profile::{
    Basis, Collective, Delta, Exchange, Experts, Heads, Latent, LatentTimes, Times,
};
use proptest::prelude::*;

static DEVICES: LazyLock<Vec<DeviceProfile>> =
    LazyLock::new(|| DeviceProfile::names().map(|n| DeviceProfile::load(n).unwrap()).collect());

fn device(name: &str) -> &'static DeviceProfile {
    DEVICES.iter().find(|d| d.name == name).unwrap()
}

const KV: [KvDtype; 2] = KvDtype::ALL;

/// Above its roofline, and no shorter for more of either variable.
fn lawful(times: &Times, x: f64, y: f64, more: f64) -> Result<(), TestCaseError> {
    let t = times.at(x, y);
    prop_assert!(t.is_finite() && t > 0.0, "{t}");
    prop_assert!(t >= times.roofline(x) * (1.0 - 1e-9), "{t} below {}", times.roofline(x));
    prop_assert!(times.at(more * x, y) >= t * (1.0 - 1e-9));
    prop_assert!(times.at(x, more * y) >= t * (1.0 - 1e-9));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn products_and_experts_obey(
        m in 1.0_f64..40_000.0, more in 1.0_f64..4.0, (n, k) in (32_u32..80_000, 32_u32..80_000),
        (hidden, inter) in (256_u32..9000, 32_u32..20_000), total in 1_u32..900, share in 1_u32..65,
        top_k in 1_u32..24, gated: bool,
    ) {
        let held = total.div_ceil(share);
        let experts = Experts { hidden, inter, held, total, top_k: top_k.min(total), gated };
        for device in DEVICES.iter() {
            for format in Format::ALL {
                lawful(&device.gemm(f64::from(n), f64::from(k), format), m, 0.0, more)?;
                lawful(&device.experts(experts, format), m, 0.0, more)?;
            }
        }
    }

    #[test]
    fn attention_obeys(
        kv in 1_u32..32, group in 1_u32..20, dim in prop::sample::select(vec![64_u32, 80, 128, 192, 256]),
        window in prop::sample::select(vec![0_u32, 128, 1024, 4096]), chunk in 1_u32..8192, history in 0_u32..60_000,
        decodes in 1_u32..300, length in 1_u32..60_000, more in 1_u32..3000,
    ) {
        let heads = Heads { query: kv * group, kv, dim, window };
        let of = |history, chunk| {
            let mut shape = Shape::default();
            shape.add(history, chunk, false, true);
            shape
        };
        for device in DEVICES.iter() {
            for format in KV {
                let (prefill, decode) =
                    (device.prefill_attention(heads, format), device.decode_attention(heads, format));
                let chunks = device.chunks(heads, format);
                let prompt = |shape| {
                    let asked = chunks.asked(&shape);
                    prefill.at(asked.work, asked.longest).max(asked.floor)
                };
                let t = prompt(of(history, chunk));
                prop_assert!(prompt(of(history, chunk + more)) >= t * (1.0 - 1e-9));
                prop_assert!(prompt(of(history + more, chunk)) >= t * (1.0 - 1e-9));
                let (kv, seqs) = (f64::from(kv), f64::from(decodes));
                let seen = |length: u32| heads.seen(seqs * f64::from(length), seqs);
                lawful(&decode, kv * seen(length), kv * seqs, 1.5)?;
                prop_assert!(
                    decode.at(kv * seen(length + more), kv * seqs) >= decode.at(kv * seen(length), kv * seqs)
                );
            }
        }
    }

    #[test]
    fn blocks_obey(
        heads in 1_u32..128, chunk in 1_u32..8192, history in 0_u32..60_000, decodes in 1_u32..300,
        length in 1_u32..60_000, more in 1_u32..3000, values in 1_u32..128,
    ) {
        let shape = |history, chunk, decodes, length| {
            let mut shape = Shape::default();
            shape.add(history, chunk, false, true);
            (0..decodes).for_each(|_| shape.add(length - 1, 1, true, true));
            shape
        };
        let less = shape(history, chunk, decodes, length);
        let greater = [
            shape(history + more, chunk, decodes, length + more),
            shape(history, chunk + more, decodes + more.min(200), length),
        ];
        let both = |t: &LatentTimes, s: &Shape| [t.prefill(s), t.decode(s)];
        for device in DEVICES.iter() {
            let (peaks, delta) = (
                device.peaks(),
                Delta { key_heads: values.div_ceil(2), value_heads: values, key_dim: 128, value_dim: 128 },
            );
            for latent in [Latent::deepseek_v3(heads), Latent::deepseek_v32(heads), Latent::glm_5(heads, false),
                Latent::glm_5(heads, true)] {
                for (format, kv) in Format::ALL.into_iter().flat_map(|f| KV.map(|kv| (f, kv))) {
                    let times = device.latent_attention(latent, format, kv);
                    let here = both(&times, &less);
                    let roof = [
                        latent.prefill_roofline(&peaks, format, kv, &less),
                        latent.decode_roofline(&peaks, format, kv, &less),
                    ];
                    prop_assert!(here.iter().zip(roof).all(|(t, roof)| *t >= roof * (1.0 - 1e-9)));
                    for greater in &greater {
                        let there = both(&times, greater);
                        prop_assert!(here.iter().zip(there).all(|(a, b)| b >= a * (1.0 - 1e-9)));
                    }
                }
            }
            let times = device.delta_net(delta);
            let tokens = f64::from(less.prefill_tokens);
            prop_assert!(times.prefill(&less) >= delta.roofline(&peaks, tokens, 1.0));
            prop_assert!(times.prefill(&greater[1]) >= times.prefill(&less) * (1.0 - 1e-9));
            prop_assert!(times.decode(&greater[1]) >= times.decode(&less) * (1.0 - 1e-9));
        }
    }

    #[test]
    fn collectives_obey(
        bytes in 1.0_f64..2e9, ranks in 2_u32..9, tokens in 1.0_f64..70_000.0, more in 1.0_f64..8.0,
        hidden in 512_u32..8192, top_k in 1_u32..16,
    ) {
        for device in DEVICES.iter() {
            for of in Collective::ALL {
                lawful(&device.collective(of, ranks), bytes, 0.0, more)?;
            }
            for by in [Exchange::LowLatency, Exchange::HighThroughput] {
                for dispatch in [true, false] {
                    lawful(&device.exchange(by, dispatch, [hidden, top_k, 256], ranks), tokens, 0.0, more)?;
                }
            }
        }
    }
}

#[test]
fn formats_are_faster_where_the_hardware_has_them() {
    // Many tokens compute, few read weights.
    let at = |name: &str, format, m| device(name).gemm(8192.0, 8192.0, format).at(m, 0.0);
    for (name, formats) in [
        ("h100-sxm", &[Format::Bf16, Format::Fp8][..]),
        ("b200", &[Format::Bf16, Format::Fp8, Format::Nvfp4]),
    ] {
        for m in [16.0, 8192.0] {
            let times: Vec<f64> = formats.iter().map(|f| at(name, *f, m)).collect();
            assert!(times.is_sorted_by(|a, b| a > b), "{name} {m}: {times:?}");
        }
    }
    // Weights of four bits save reading and no computing where the device has no such arithmetic.
    let (few, many) = (at("h100-sxm", Format::Nvfp4, 1.0), at("h100-sxm", Format::Nvfp4, 8192.0));
    assert!(few < 0.6 * at("h100-sxm", Format::Bf16, 1.0));
    assert!(many > 0.9 * at("h100-sxm", Format::Bf16, 8192.0));
}

#[test]
fn the_evidence_for_a_time_is_told() {
    let (h100, b200, a40) = (device("h100-sxm"), device("b200"), device("a40"));
    let product = |d: &DeviceProfile, n, format| d.gemm(n, 4096.0, format).basis().clone();
    assert_eq!(product(h100, 4096.0, Format::Fp8), Basis::Measured);
    assert_eq!(product(h100, 5000.0, Format::Fp8), Basis::Interpolated);
    assert_eq!(product(b200, 4096.0, Format::Nvfp4), Basis::Measured);
    insta::assert_snapshot!(product(h100, 4096.0, Format::Nvfp4), @"not measured: its roofline with the efficiency of gemm in bf16 (the device does not compute in this format: weights are unpacked to bf16)");
    // gpt-oss-120b on one rank; and GLM-4.6, whose experts are in no table.
    let gpt_oss =
        Experts { hidden: 2880, inter: 2880, held: 128, total: 128, top_k: 4, gated: true };
    let glm = Experts { hidden: 5120, inter: 1536, held: 160, total: 160, top_k: 8, gated: true };
    assert_eq!(*h100.experts(gpt_oss, Format::Mxfp4).basis(), Basis::Measured);
    assert_eq!(*h100.experts(glm, Format::Fp8).basis(), Basis::Interpolated);
    insta::assert_snapshot!(h100.experts(glm, Format::Nvfp4).basis(), @"not measured: its roofline with the efficiency of experts in int4 (the device does not compute in this format: weights are unpacked to bf16)");
    // Hopper's experts in fp8 take longer than in bf16: they lend nothing to those in blocks.
    let mut hidden = h100.clone();
    hidden.operators.get_mut("experts").unwrap().remove("fp8_block");
    insta::assert_snapshot!(hidden.experts(glm, Format::Fp8Block).basis(), @"not measured: its roofline with the efficiency of experts in bf16");
    insta::assert_snapshot!(a40.experts(glm, Format::Bf16).basis(), @"not measured: its roofline with the efficiency of matrix products in bf16 of one expert's size");
    let latent = Latent::deepseek_v3(16);
    let of = |d: &DeviceProfile| {
        let times = d.latent_attention(latent, Format::Fp8Block, KvDtype::Fp8);
        times.basis().map(ToString::to_string).join("; ")
    };
    insta::assert_snapshot!(of(h100), @"measured; measured");
    insta::assert_snapshot!(of(device("l40s")), @"measured; not measured: its roofline with the efficiency of latent decode in fp8_block");
    assert!(of(a40).contains("the middle efficiency of matrix products"), "{}", of(a40));
}
