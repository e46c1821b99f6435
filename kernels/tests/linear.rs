//! Linear layers against sums in f64, on every instruction set that this machine has, and AMX where it can be emulated.

mod common;

use std::sync::Once;

use common::{Numbers, bf16, error};
use kernels::cpu::{Isa, Linear, Output, Precision, Rows, Team};
use proptest::prelude::*;

/// All that there are here; AMX too, though it be emulated.
fn isas() -> Vec<Isa> {
    static SAID: Once = Once::new();
    let mut isas = Isa::all();
    match Isa::amx_emulated() {
        Some(amx) if isas.contains(&amx) => {}
        Some(amx) => isas.insert(0, amx),
        None => SAID.call_once(|| {
            println!("without AMX: no AVX-512 on Linux here to emulate it on");
        }),
    }
    isas
}

/// The error that quantising both sides may cost; f32's is rounding alone.
fn tolerance(precision: Precision) -> f64 {
    match precision {
        Precision::Int8 => 0.03,
        Precision::Bf16 | Precision::F32 => 1e-5,
    }
}

/// Rows x outputs, in f64.
fn product(x: &[f32], w: &[f32], features: usize) -> Vec<f64> {
    let dot = |x: &[f32], w: &[f32]| {
        x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum::<f64>()
    };
    let rows = x.chunks_exact(features);
    rows.flat_map(|x| w.chunks_exact(features).map(move |w| dot(x, w))).collect()
}

/// Weights and activations as they are kept, where that is exact.
fn kept(precision: Precision, x: &[f32]) -> Vec<f32> {
    match precision {
        Precision::Bf16 => x.iter().map(|&x| bf16(x)).collect(),
        Precision::Int8 | Precision::F32 => x.to_vec(),
    }
}

const PRECISIONS: [Precision; 3] = [Precision::Int8, Precision::Bf16, Precision::F32];

/// `y` of a layer and, before it, what was there.
fn forward(team: &Team, layer: &Linear, x: &[f32], add: Option<&[f32]>) -> Vec<f32> {
    let mut rows = Rows::new(layer.precision());
    rows.take(team, x, layer.features());
    let mut y = vec![0.5; rows.len() * layer.outputs()];
    match add {
        None => layer.forward(team, &rows, Output::Store(&mut y)),
        Some(before) => {
            y.copy_from_slice(before);
            layer.forward(team, &rows, Output::Add(&mut y));
        }
    }
    y
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn projections_are_sums(
        rows in 1usize..40,
        features in 1usize..300,
        outputs in (1usize..70, 1usize..70),
        threads in 1usize..=3,
        seed: u64,
    ) {
        let mut numbers = Numbers::new(seed);
        let x = numbers.vec(rows * features);
        let (a, b) = (numbers.vec(outputs.0 * features), numbers.vec(outputs.1 * features));
        let both = [a.clone(), b.clone()].concat();
        let all = outputs.0 + outputs.1;
        let (bias, before) = (numbers.vec(all), numbers.vec(rows * all));
        for precision in PRECISIONS {
            let want = product(&kept(precision, &x), &kept(precision, &both), features);
            let biased: Vec<f64> = want.iter().enumerate()
                .map(|(i, w)| w + f64::from(bias[i % all]) + f64::from(before[i])).collect();
            let mut integers: Option<Vec<f32>> = None;
            for isa in isas() {
                let team = Team::with_isa(threads, isa);
                let layer = Linear::pack(&team, precision, features, &[&a, &b]);
                let got = forward(&team, &layer, &x, None);
                let off = error(&got, &want);
                prop_assert!(off < tolerance(precision), "{precision:?} {isa:?}: {off}");
                let got_biased = forward(&team, &layer.biased(&bias), &x, Some(&before));
                let off = error(&got_biased, &biased);
                prop_assert!(off < tolerance(precision), "{precision:?} {isa:?} biased: {off}");
                if precision == Precision::Int8 {
                    let first = integers.get_or_insert_with(|| got.clone());
                    prop_assert_eq!(&*first, &got, "the same bits on {:?}", isa);
                }
            }
        }
    }

    /// Blocks whose scale is 1 lose nothing: integers in, the exact integers out.
    #[test]
    fn integers_are_exact(rows in 1usize..70, blocks in 1usize..17, outputs in 1usize..70, seed: u64) {
        let mut numbers = Numbers::new(seed);
        let features = 32 * blocks;
        let mut whole = |len: usize| -> Vec<f32> {
            let whole = |(i, x): (usize, f32)| {
                if i % 32 == 17 { 127.0f32.copysign(x) } else { (40.0 * x).round().clamp(-127.0, 127.0) }
            };
            numbers.vec(len).into_iter().enumerate().map(whole).collect()
        };
        let (x, w) = (whole(rows * features), whole(outputs * features));
        let want = product(&x, &w, features);
        for isa in isas() {
            let team = Team::with_isa(2, isa);
            let layer = Linear::pack(&team, Precision::Int8, features, &[&w]);
            let got = forward(&team, &layer, &x, None);
            prop_assert!(got.iter().zip(&want).all(|(&g, &w)| f64::from(g) == w), "{isa:?}");
        }
    }

    #[test]
    fn gates_multiply_as_in_f64(rows in 1usize..50, features in 1usize..150, outputs in 1usize..50, seed: u64) {
        let mut numbers = Numbers::new(seed);
        let x = numbers.vec(rows * features);
        let (gate, up) = (numbers.vec(outputs * features), numbers.vec(outputs * features));
        let size = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        // A lone result may be the small difference of large products, which is no error of theirs.
        let positive = |v: &[f32]| -> Vec<f32> { v.iter().map(|x| x.abs()).collect() };
        let [g, u] = [&gate, &up].map(|w| product(&positive(&x), &positive(w), features));
        let products: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g * u / features as f64).collect();
        for precision in PRECISIONS {
            let (x, g, u) = (kept(precision, &x), kept(precision, &gate), kept(precision, &up));
            let (g, u) = (product(&x, &g, features), product(&x, &u, features));
            let want: Vec<f64> = g.iter().zip(&u).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            for isa in isas() {
                let team = Team::with_isa(2, isa);
                let layer = Linear::pack_gated(&team, precision, features, &gate, &up);
                let got = forward(&team, &layer, &x, None);
                let off: Vec<f64> = got.iter().zip(&want).map(|(&g, w)| f64::from(g) - w).collect();
                let off = size(&off) / size(&want).max(size(&products));
                prop_assert!(off < 8.0 * tolerance(precision), "{precision:?} {isa:?}: {off}");
            }
        }
    }

    /// A row's result is its own: the same bits alone and in any batch, for any number of threads.
    #[test]
    fn rows_do_not_depend_on_each_other(
        rows in 2usize..70,
        features in 1usize..200,
        outputs in 1usize..80,
        seed: u64,
    ) {
        let mut numbers = Numbers::new(seed);
        let (x, w) = (numbers.vec(rows * features), numbers.vec(outputs * features));
        for precision in PRECISIONS {
            for isa in isas() {
                let (one, two) = (Team::with_isa(1, isa), Team::with_isa(2, isa));
                let layer = Linear::pack(&two, precision, features, &[&w]);
                let all = forward(&two, &layer, &x, None);
                let alone: Vec<f32> = x.chunks_exact(features)
                    .flat_map(|row| forward(&one, &layer, row, None)).collect();
                prop_assert_eq!(all, alone);
            }
        }
    }
}

/// Products of pairs, where there is an instruction for them, and one by one.
#[test]
fn pairs_of_bf16_have_the_same_bits_everywhere() {
    let named = |name| Isa::all().into_iter().find(|isa| isa.name() == name);
    let (Some(pairs), Some(avx2)) = (named("avx512-bf16"), named("avx2")) else {
        return println!("skipped: no AVX-512 with bf16 here");
    };
    let others = [named("avx512-vnni").expect("it has that too"), avx2];
    let mut numbers = Numbers::new(6);
    for (rows, features) in (1..=40).map(|rows| (rows, 77)).chain([(33, 12_000)]) {
        let (x, w) = (numbers.vec(rows * features), numbers.vec(41 * features));
        let bits = |isa| {
            let team = Team::with_isa(2, isa);
            let layer = Linear::pack(&team, Precision::Bf16, features, &[&w]);
            let y = forward(&team, &layer, &x, None);
            y.into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let want = bits(pairs);
        for isa in others {
            assert!(bits(isa) == want, "{rows} rows of {features} on {isa:?}");
        }
    }
}

/// Tiles of every height, of AMX and of AVX-512, alone and after others; blocks, panels and chunks that are not whole.
#[test]
fn amx_says_the_same_bits_as_avx512() {
    let avx512 = Isa::all().into_iter().find(|isa| isa.name() == "avx512-vnni");
    let (Some(amx), Some(avx512)) = (Isa::amx_emulated(), avx512) else {
        return println!("skipped: no AVX-512 on Linux here");
    };
    assert_eq!(amx.name(), "amx-int8");
    let teams = [Team::with_isa(2, amx), Team::with_isa(2, avx512)];
    let mut numbers = Numbers::new(5);
    let wide = [(33, 12_000), (45, 12_000), (70, 12_000)];
    for (rows, features) in (1..=100).map(|rows| (rows, 77)).chain(wide) {
        let outputs = 41;
        let x = numbers.vec(rows * features);
        let (a, b) = (numbers.vec(outputs * features), numbers.vec(outputs * features));
        let (bias, before) = (numbers.vec(outputs), numbers.vec(rows * outputs));
        let [amx, avx512] = [0, 1].map(|which| {
            let team = &teams[which];
            let plain = || Linear::pack(team, Precision::Int8, features, &[&a]);
            let gated = Linear::pack_gated(team, Precision::Int8, features, &a, &b);
            let results = [
                forward(team, &plain(), &x, None),
                forward(team, &plain().biased(&bias), &x, Some(&before)),
                forward(team, &gated, &x, None),
                forward(team, &gated, &x, Some(&before)),
            ];
            results.map(|y| y.into_iter().map(f32::to_bits).collect::<Vec<_>>())
        });
        assert_eq!(amx, avx512, "{rows} rows of {features}");
    }
}

#[test]
fn tiny_values_are_not_quantised_to_zero() {
    let team = Team::new(1);
    for tiny in [0.0f32, 1e-42, 1e-30] {
        let layer = Linear::pack(&team, Precision::Int8, 70, &[&vec![tiny; 70 * 3]]);
        let y = forward(&team, &layer, &[1.0; 70], None);
        let off = if tiny < f32::MIN_POSITIVE { 71.0 * tiny } else { tiny };
        assert!(y.iter().all(|y| (y - 70.0 * tiny).abs() <= off), "{tiny}: {y:?}");
        let layer = Linear::pack(&team, Precision::Int8, 70, &[&vec![1.0; 70 * 3]]);
        let y = forward(&team, &layer, &[tiny; 70], None);
        assert!(y.iter().all(|y| y.is_finite() && y.abs() <= 71.0 * tiny), "{tiny}: {y:?}");
    }
}

#[test]
fn norms_agree_with_f64() {
    let team = Team::new(2);
    let mut numbers = Numbers::new(3);
    for (rows, features) in [(1, 16), (3, 70), (40, 576)] {
        let (x, weight) = (numbers.vec(rows * features), numbers.vec(features));
        // Through an identity, which is what a caller sees of it.
        let eye: Vec<f32> =
            (0..features * features).map(|i| f32::from(i % (features + 1) == 0)).collect();
        let layer = Linear::pack(&team, Precision::F32, features, &[&eye]);
        let mut normal = Rows::new(Precision::F32);
        normal.take_normalised(&team, &x, &weight, 1e-5);
        let mut y = vec![0.0; rows * features];
        layer.forward(&team, &normal, Output::Store(&mut y));
        let want: Vec<f64> = x
            .chunks_exact(features)
            .flat_map(|row| {
                let square = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
                let scale = 1.0 / (square / features as f64 + 1e-5).sqrt();
                row.iter().zip(&weight).map(move |(&x, &w)| f64::from(x) * scale * f64::from(w))
            })
            .collect();
        assert!(error(&y, &want) < 1e-5);
    }
}
