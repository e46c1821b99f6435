//! One check for each kernel: how far it is from the reference. Sizes are small and awkward: rows that fill no tile,
//! outputs that fill no block. Those of keys and values are in `cache`.

use half::bf16;
use kernels::cuda::{
    Batch, Buffer, Collective, CudaError, Device, DeviceBatch, Draw, Limits, Products, Window,
};
use kernels::random::Uniform;

use super::reference::{Random, distance, rmsnorm, wide};

/// The checks, and the distance that results may have from the reference.
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) most: f64,
    pub(crate) run: fn(&Device) -> Result<f64, CudaError>,
}

/// bf16 has eight bits: a result rounded once is this far off, and sums add little.
pub(crate) const ROUNDED: f64 = 3e-3;

pub(crate) fn fetched<T: kernels::cuda::Element + Default>(
    buffer: &Buffer<T>,
) -> Result<Vec<T>, CudaError> {
    let mut data = vec![T::default(); buffer.len()];
    buffer.read(0, &mut data)?;
    Ok(data)
}

pub(crate) fn floats(buffer: &Buffer<bf16>) -> Result<Vec<f64>, CudaError> {
    Ok(wide(&fetched(buffer)?))
}

/// A result that was never written.
pub(crate) fn unwritten(device: &Device, len: usize) -> Result<Buffer<bf16>, CudaError> {
    device.upload(&vec![bf16::NAN; len])
}

/// The distance between two that must be equal to the bit.
pub(crate) fn exactly<T: PartialEq>(got: &[T], want: &[T]) -> f64 {
    if got == want { 0.0 } else { f64::INFINITY }
}

pub(crate) fn fill() -> Check {
    Check { name: "random numbers", most: 0.0, run: run_fill }
}

/// To the bit what the host makes them, whole or some rows and columns of a matrix; what lies around stays as it was.
fn run_fill(device: &Device) -> Result<f64, CudaError> {
    let numbers = Uniform { key: 5, mean: 0.5, half_width: 0.1 };
    let windows = [
        Window::first(10_007),
        Window { first: 1 << 33, rows: 70, cols: 130, stride: 1 << 31 },
        Window { first: 3, rows: 9, cols: 1, stride: 7 },
    ];
    let mut worst = 0.0f64;
    for window in windows {
        let mut out = unwritten(device, window.len() + 2)?;
        device.fill(&mut out, 1, numbers, window)?;
        let row = |row: usize| (0..window.cols).map(move |c| (row as u64, c as u64));
        let places = (0..window.rows).flat_map(row);
        let index = places.map(|(row, col)| window.first + row * window.stride + col);
        let want: Vec<bf16> = index.map(|i| bf16::from_f32(numbers.at(i))).collect();
        let got = fetched(&out)?;
        worst = worst.max(exactly(&got[1..=want.len()], &want));
        let around = got[0].is_nan() && got[want.len() + 1].is_nan();
        worst = worst.max(if around { 0.0 } else { f64::INFINITY });
    }
    Ok(worst)
}

pub(crate) fn embedding() -> Check {
    Check { name: "embedding", most: 0.0, run: run_embedding }
}

fn run_embedding(device: &Device) -> Result<f64, CudaError> {
    let (vocab, hidden) = (11, 2056);
    let table = Random(3).bf16s(vocab * hidden);
    let ids = vec![3, 0, 10, 9, 7];
    let rows = ids.len();
    let batch = Batch {
        positions: vec![0; rows],
        slots: vec![0; rows],
        last: vec![4, 1],
        ids,
        ..Batch::default()
    };
    let limits = Limits { vocab, positions: 1, slots: 1, rows };
    let mut on_device = DeviceBatch::new(device)?;
    on_device.set(device, &batch, limits)?;
    let mut out = unwritten(device, rows * hidden)?;
    device.embed(&on_device, (&device.upload(&table)?, 0), &mut out, hidden)?;
    let mut last = unwritten(device, 2 * hidden)?;
    device.gather_last(&on_device, &out, &mut last, hidden)?;
    let row = |id: i32| &table[id as usize * hidden..][..hidden];
    let want: Vec<bf16> = batch.ids.iter().flat_map(|&id| row(id)).copied().collect();
    let want_last = [row(7), row(0)].concat();
    // Of a rank that has a part of the vocabulary; tokens at both of its ends and beyond them.
    let (first, end) = (3, 10);
    let part = device.upload(&table[first * hidden..end * hidden])?;
    let mut partly = unwritten(device, rows * hidden)?;
    device.embed(&on_device, (&part, first), &mut partly, hidden)?;
    let zeros = vec![bf16::ZERO; hidden];
    let has = |id: i32| (first..end).contains(&(id as usize));
    let want_partly: Vec<bf16> =
        batch.ids.iter().flat_map(|&id| if has(id) { row(id) } else { &zeros }).copied().collect();
    Ok(exactly(&fetched(&out)?, &want)
        .max(exactly(&fetched(&last)?, &want_last))
        .max(exactly(&fetched(&partly)?, &want_partly)))
}

pub(crate) fn add_rmsnorm() -> Check {
    Check { name: "add + RMSNorm", most: ROUNDED, run: run_add_rmsnorm }
}

fn run_add_rmsnorm(device: &Device) -> Result<f64, CudaError> {
    let mut worst = 0.0f64;
    for (rows, cols, added) in [(3, 264, true), (2, 2088, true), (2, 1600, false)] {
        let mut random = Random(9 + cols as u64);
        let (x, residual) = (random.bf16s(rows * cols), random.bf16s(rows * cols));
        let weight = random.bf16s(cols);
        let sums = x.iter().zip(&residual);
        let sums: Vec<bf16> = if added {
            sums.map(|(a, b)| bf16::from_f32(a.to_f32() + b.to_f32())).collect()
        } else {
            residual.clone()
        };
        let mut y = unwritten(device, rows * cols)?;
        let (x, mut stream) = (device.upload(&x)?, device.upload(&residual)?);
        let x = added.then_some(&x);
        let on_device = device.upload(&weight)?;
        device.add_rmsnorm(rows, x, &mut stream, &on_device, &mut y, 1e-5)?;
        let want: Vec<f64> =
            wide(&sums).chunks(cols).flat_map(|row| rmsnorm(row, &wide(&weight), 1e-5)).collect();
        worst = worst.max(exactly(&fetched(&stream)?, &sums)).max(distance(floats(&y)?, &want));
    }
    Ok(worst)
}

pub(crate) fn all_reduce() -> Check {
    Check { name: "sum over ranks", most: 0.0, run: run_all_reduce }
}

/// Rounded once, and the same bits on every rank; what lies behind stays as it was.
fn run_all_reduce(device: &Device) -> Result<f64, CudaError> {
    let mut worst = 0.0f64;
    for (ranks, len) in [(1, 16), (2, 2056), (3, 264), (8, 4096)] {
        let mut random = Random(ranks as u64);
        let parts: Vec<Vec<bf16>> = (0..ranks).map(|_| random.bf16s(len + 8)).collect();
        let sum = |i: usize| parts.iter().map(|part| part[i].to_f32()).sum::<f32>();
        let sums: Vec<bf16> = (0..len).map(|i| bf16::from_f32(sum(i))).collect();
        let uploaded = parts.iter().map(|part| device.upload(part));
        let mut buffers = uploaded.collect::<Result<Vec<_>, _>>()?;
        let group = Collective::new(&vec![device.clone(); ranks])?;
        group.sum(&mut buffers.iter_mut().collect::<Vec<_>>(), len)?;
        for (buffer, part) in buffers.iter().zip(&parts) {
            let want = [&sums[..], &part[len..]].concat();
            worst = worst.max(exactly(&fetched(buffer)?, &want));
        }
    }
    Ok(worst)
}

pub(crate) fn join_columns() -> Check {
    Check { name: "ranks' columns", most: 0.0, run: run_join_columns }
}

/// The columns that ranks share or one of them collects, side by side: every rank has its columns of every row.
fn run_join_columns(device: &Device) -> Result<f64, CudaError> {
    let mut worst = 0.0f64;
    for (ranks, rows, columns) in [(1, 3, 8), (2, 5, 130), (3, 2, 264), (8, 1, 48)] {
        let mut random = Random(columns as u64);
        let group = Collective::new(&vec![device.clone(); ranks])?;
        // More than is exchanged.
        let parts: Vec<Vec<bf16>> = (0..ranks).map(|_| random.bf16s(rows * columns + 16)).collect();
        let row = |row: usize| {
            parts.iter().flat_map(move |part| &part[row * columns..(row + 1) * columns]).copied()
        };
        let want: Vec<bf16> = (0..rows).flat_map(row).collect();
        let uploaded = parts.iter().map(|part| device.upload(part));
        let uploaded = uploaded.collect::<Result<Vec<_>, _>>()?;
        let sent: Vec<_> = uploaded.iter().collect();
        let places = (0..ranks).map(|_| unwritten(device, ranks * rows * columns));
        let mut places = places.collect::<Result<Vec<_>, _>>()?;
        group.share(&sent, &mut places.iter_mut().collect::<Vec<_>>(), rows * columns)?;
        let mut collected = unwritten(device, ranks * rows * columns)?;
        group.collect(&sent, &mut collected, rows * columns)?;
        places.push(collected);
        for place in &places {
            let mut joined = unwritten(device, ranks * rows * columns)?;
            device.join_columns((ranks, rows, columns), place, &mut joined)?;
            worst = worst.max(exactly(&fetched(&joined)?, &want));
        }
    }
    Ok(worst)
}

pub(crate) fn silu_mul() -> Check {
    Check { name: "SiLU * mul", most: ROUNDED, run: run_silu_mul }
}

fn run_silu_mul(device: &Device) -> Result<f64, CudaError> {
    let (rows, cols) = (3, 2104);
    let gate_up = Random(21).bf16s(rows * 2 * cols);
    let mut y = unwritten(device, rows * cols)?;
    device.silu_mul(rows, cols, &device.upload(&gate_up)?, &mut y)?;
    let silu = |(g, u): (&f64, &f64)| g / (1.0 + (-g).exp()) * u;
    let want: Vec<f64> = wide(&gate_up)
        .chunks(2 * cols)
        .flat_map(|row| row[..cols].iter().zip(&row[cols..]).map(silu).collect::<Vec<_>>())
        .collect();
    Ok(distance(floats(&y)?, &want))
}

/// The product of random matrices, and the reference's.
fn product(
    device: &Device,
    products: Products,
    (rows, features, outputs): (usize, usize, usize),
) -> Result<f64, CudaError> {
    let mut random = Random(1 + rows as u64 * 7 + outputs as u64);
    let (x, weight) = (random.bf16s(rows * features), random.bf16s(outputs * features));
    let sizes = (rows, features, outputs);
    let (x_d, weight_d) = (device.upload(&x)?, device.upload(&weight)?);
    let mut y = unwritten(device, rows * outputs)?;
    device.linear(products, sizes, &x_d, &weight_d, &mut y)?;
    let mut exact = device.upload(&vec![f32::NAN; rows * outputs])?;
    device.linear(products, sizes, &x_d, &weight_d, &mut exact)?;
    let dot = |r: usize, o: usize| -> f64 {
        let (x, w) = (&x[r * features..][..features], &weight[o * features..][..features]);
        x.iter().zip(w).map(|(x, w)| x.to_f64() * w.to_f64()).sum()
    };
    let want: Vec<f64> = (0..rows).flat_map(|r| (0..outputs).map(move |o| dot(r, o))).collect();
    let exact = distance(fetched(&exact)?.into_iter().map(f64::from), &want);
    // In f32 only the order of sums differs; the check is as strict for it.
    let strict = if exact < 1e-5 { 0.0 } else { f64::INFINITY };
    Ok(distance(floats(&y)?, &want).max(strict))
}

fn worst_product(
    device: &Device,
    products: Products,
    sizes: &[(usize, usize, usize)],
) -> Result<f64, CudaError> {
    sizes
        .iter()
        .try_fold(0.0, |worst: f64, &sizes| Ok(worst.max(product(device, products, sizes)?)))
}

pub(crate) fn small_products() -> Check {
    let run = |device: &Device| {
        let sizes = [(1, 520, 9), (2, 256, 8), (3, 8, 17), (4, 264, 7), (7, 72, 5), (8, 304, 3)];
        worst_product(device, Products::Fast, &sizes)
    };
    Check { name: "products of a few rows", most: ROUNDED, run }
}

pub(crate) fn large_products() -> Check {
    let run = |device: &Device| {
        let sizes = [(1, 64, 64), (9, 136, 65), (65, 72, 63), (70, 200, 130)];
        worst_product(device, Products::Invariant, &sizes)
    };
    Check { name: "products of many rows", most: ROUNDED, run }
}

pub(crate) fn products_are_invariant() -> Check {
    Check { name: "products, any batch", most: 0.0, run: run_invariant_products }
}

/// A row's product alone and among others: the same to the bit.
fn run_invariant_products(device: &Device) -> Result<f64, CudaError> {
    let (features, outputs, rows) = (200, 70, 67);
    let mut random = Random(8);
    let (x, weight) = (random.bf16s(rows * features), random.bf16s(outputs * features));
    let weight = device.upload(&weight)?;
    let multiply = |x: &[bf16]| {
        let rows = x.len() / features;
        let mut y = device.upload(&vec![f32::NAN; rows * outputs])?;
        let sizes = (rows, features, outputs);
        device.linear(Products::Invariant, sizes, &device.upload(x)?, &weight, &mut y)?;
        fetched(&y)
    };
    let all = multiply(&x)?;
    let mut worst = 0.0f64;
    for row in [0, 17, 63, 66] {
        let one = multiply(&x[row * features..][..features])?;
        worst = worst.max(exactly(&one, &all[row * outputs..][..outputs]));
    }
    Ok(worst)
}

pub(crate) fn sample() -> Check {
    Check { name: "sampling", most: 0.0, run: |device| sample_of(device, 777) }
}

fn draw(temperature: f32, top_k: i32, top_p: f32, at: f32) -> Draw {
    let inverse_temperature = if temperature == 0.0 { 0.0 } else { 1.0 / temperature };
    Draw { inverse_temperature, top_k, top_p, at }
}

/// Tokens that are not what their draws choose, of a vocabulary of at least 701.
pub(crate) fn sample_of(device: &Device, vocab: usize) -> Result<f64, CudaError> {
    let mut random = Random(6);
    let mut draws = vec![draw(0.0, 0, 1.0, 0.3), draw(0.5, 1, 0.2, 0.99)];
    for i in 0..14 {
        let top_k = [0, 1, 5, 700, 40][i % 5];
        let top_p = [1.0, 0.9, 0.3, 0.05][i % 4];
        draws.push(draw([0.7, 1.0, 3.0][i % 3], top_k, top_p, random.unit()));
    }
    // Some logits are equal, some are of tokens that cannot be; one row has one token only.
    let logit = |r: u64| match r % 13 {
        0 => f32::NEG_INFINITY,
        1 => 1.5,
        _ => (r >> 40) as f32 / 1e6 - 8.0,
    };
    let mut logits: Vec<f32> = (0..draws.len() * vocab).map(|_| logit(random.next())).collect();
    // Of the greatest, two are next to each other and one is elsewhere.
    [300, 44, 41].into_iter().for_each(|token| logits[token] = 20.0);
    let last = logits.len() - vocab;
    logits[last..].fill(f32::NEG_INFINITY);
    logits[last + 500] = -3.0;
    let mut tokens = device.upload(&vec![-1; draws.len()])?;
    device.sample(
        (draws.len(), vocab),
        &device.upload(&logits)?,
        &device.upload(&draws)?,
        &mut tokens,
    )?;
    let tokens = fetched(&tokens)?;
    let wrong = tokens.iter().zip(&draws).zip(logits.chunks(vocab));
    let wrong = wrong.filter(|((token, draw), row)| !may_be(row, draw, **token)).count();
    Ok(wrong as f64)
}

/// True if `token` is what `draw` chooses by a sorted vocabulary in f64, give or take what rounding moves.
fn may_be(logits: &[f32], draw: &Draw, token: i32) -> bool {
    const SLACK: f64 = 1e-5;
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if draw.inverse_temperature == 0.0 {
        return token as usize == order[0];
    }
    let most = f64::from(logits[order[0]]);
    let weigh =
        |t: usize| ((f64::from(logits[t]) - most) * f64::from(draw.inverse_temperature)).exp();
    if draw.top_k > 0 {
        order.truncate(draw.top_k as usize);
    }
    let whole: f64 = order.iter().map(|&t| weigh(t)).sum();
    let nucleus = |enough: f64| {
        let (mut sum, mut kept) = (0.0, Vec::new());
        for &t in &order {
            if sum >= enough {
                break;
            }
            sum += weigh(t);
            kept.push(t);
        }
        kept
    };
    let share = f64::from(draw.top_p) * whole;
    // Both sides of a token's edge will do where the cut is within rounding of it.
    [share * (1.0 - SLACK), share, share * (1.0 + SLACK)].into_iter().any(|enough| {
        let mut kept = nucleus(enough);
        kept.sort_unstable();
        let total: f64 = kept.iter().map(|&t| weigh(t)).sum();
        let (mut sum, point) = (0.0, f64::from(draw.at) * total);
        kept.iter().any(|&t| {
            let from = sum;
            sum += weigh(t);
            let slack = SLACK * total;
            t == token as usize && from - slack <= point && point <= sum + slack
        })
    })
}
