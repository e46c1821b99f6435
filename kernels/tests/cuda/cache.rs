//! Checks of the kernels that touch keys and values: groups of heads that share in threes, blocks of one slot and
//! sequences in one piece.

use half::bf16;
use kernels::cpu::Heads;
use kernels::cuda::{
    Batch, CudaError, Device, DeviceBatch, HeadExtras, KvPool, Limits, Scratch, Seq,
};

use super::checks::{Check, ROUNDED, exactly, fetched, floats, unwritten};
use super::reference::{Attention, Random, distance, rmsnorm, wide};

/// Longer than any sequence: one in one piece.
const WHOLE: i32 = 30;

pub(crate) fn rope_kv_write() -> Check {
    Check { name: "RoPE + KV write", most: ROUNDED, run: run_rope }
}

fn run_rope(device: &Device) -> Result<f64, CudaError> {
    let cases = [(3, 1, 32, false), (4, 2, 64, true), (8, 1, 128, true), (2, 2, 128, false)];
    let cases = cases.map(|(queries, kv, dim, extras)| (Heads { queries, kv, dim }, extras));
    let errors = cases.map(|(heads, extras)| rope(device, heads, extras));
    errors.into_iter().try_fold(0.0, |worst: f64, error| Ok(worst.max(error?)))
}

/// The second of two layers, with biases and per-head norms or without.
fn rope(device: &Device, heads: Heads, extras: bool) -> Result<f64, CudaError> {
    let Heads { queries, kv, dim } = heads;
    let mut random = Random(5 + dim as u64);
    let (positions, slots) = (vec![0, 7, 2, 39], vec![5, 0, 9, 3]);
    let (rows, all) = (4, queries + 2 * kv);
    let qkv = random.bf16s(rows * all * dim);
    let [bias, query, key] = [all * dim, dim, dim].map(|n| random.bf16s(n));
    let turns = (0..40 * dim / 2).map(|n| angle(dim, n / (dim / 2), n % (dim / 2)));
    let turns: Vec<f32> = turns.flat_map(|a| [a.cos() as f32, a.sin() as f32]).collect();
    let batch = Batch { ids: vec![0; rows], positions, slots, ..Batch::default() };
    let mut on_device = DeviceBatch::new(device)?;
    on_device.set(device, &batch, Limits { vocab: 1, positions: 40, slots: 10, rows })?;
    let mut pool = KvPool::new(device, heads, 2, 10)?;
    let mut rotated = unwritten(device, rows * queries * dim)?;
    let [bias_d, query_d, key_d] =
        [device.upload(&bias)?, device.upload(&query)?, device.upload(&key)?];
    let given = HeadExtras {
        bias: extras.then_some(&bias_d),
        norms: extras.then_some((&query_d, &key_d)),
        epsilon: 1e-6,
    };
    let (qkv_d, turns) = (device.upload(&qkv)?, device.upload(&turns)?);
    device.rope_kv_write(&on_device, &qkv_d, given, &turns, &mut rotated, (&mut pool, 1))?;

    let (want_queries, want_pool) =
        rotated_by_hand(heads, &batch, &qkv, extras, [&bias, &query, &key]);
    let of_queries = distance(floats(&rotated)?, &want_queries);
    let pool = floats(pool.data())?;
    let untouched = pool.iter().zip(&want_pool).all(|(got, want)| *want != 0.0 || *got == 0.0);
    let of_pool = if untouched { distance(pool, &want_pool) } else { f64::INFINITY };
    Ok(of_queries.max(of_pool))
}

/// Radians by which pair `i` of a head turns at position `p`.
fn angle(dim: usize, p: usize, i: usize) -> f64 {
    p as f64 * 10_000f64.powf(-2.0 * i as f64 / dim as f64)
}

/// Queries, and the pool of two layers of ten slots whose second layer the batch is written to.
fn rotated_by_hand(
    heads: Heads,
    batch: &Batch,
    qkv: &[bf16],
    extras: bool,
    [bias, query, key]: [&[bf16]; 3],
) -> (Vec<f64>, Vec<f64>) {
    let Heads { queries, kv, dim } = heads;
    let all = queries + 2 * kv;
    let mut want_queries = Vec::new();
    let mut want_pool = vec![0.0; 2 * 2 * 10 * kv * dim];
    for row in 0..batch.ids.len() {
        for head in 0..all {
            let at = (row * all + head) * dim;
            let mut x = wide(&qkv[at..at + dim]);
            if extras {
                let bias = &bias[head * dim..][..dim];
                x.iter_mut().zip(bias).for_each(|(x, b)| *x += b.to_f64());
            }
            let value = head >= queries + kv;
            if extras && !value {
                let norm = if head < queries { query } else { key };
                x = rmsnorm(&x, &wide(norm), 1e-6);
            }
            if !value {
                for i in 0..dim / 2 {
                    let (sin, cos) = angle(dim, batch.positions[row] as usize, i).sin_cos();
                    let (a, b) = (x[i], x[i + dim / 2]);
                    (x[i], x[i + dim / 2]) = (a * cos - b * sin, b * cos + a * sin);
                }
            }
            if head < queries {
                want_queries.extend(x);
            } else {
                let kv_head = (head - queries) % kv;
                let plane = 2 + usize::from(value);
                let slot = batch.slots[row] as usize;
                let at = ((plane * 10 + slot) * kv + kv_head) * dim;
                want_pool[at..at + dim].copy_from_slice(&x);
            }
        }
    }
    (want_queries, want_pool)
}

/// Attention over the first of two layers, by the split kernel or by the tiled one.
fn attend(device: &Device, case: &Attention, split: bool) -> Result<Vec<bf16>, CudaError> {
    let heads = case.heads;
    let rows: usize = case.seqs.iter().map(|s| s.rows as usize).sum();
    let mut pool = KvPool::new(device, heads, 2, case.slots)?;
    pool.data_mut().write(0, &case.keys)?;
    pool.data_mut().write(case.keys.len(), &case.values)?;
    let seqs = case.seqs.clone();
    let (decodes, chunks) = if split { (seqs, Vec::new()) } else { (Vec::new(), seqs) };
    let none = vec![0; rows];
    let batch = Batch {
        ids: none.clone(),
        positions: none.clone(),
        slots: none,
        decodes,
        chunks,
        tables: case.tables.clone(),
        last: Vec::new(),
        reach: 0,
    };
    let mut on_device = DeviceBatch::new(device)?;
    let limits = Limits { vocab: 1, positions: 1, slots: case.slots, rows };
    on_device.set(device, &batch, limits)?;
    let (queries, mut scratch) = (device.upload(&case.queries)?, Scratch::new(device)?);
    let mut out = unwritten(device, case.queries.len())?;
    device.attend(&on_device, &queries, (&pool, 0), case.window, &mut scratch, &mut out)?;
    fetched(&out)
}

fn worst_of(device: &Device, cases: &[Attention], split: bool) -> Result<f64, CudaError> {
    cases.iter().try_fold(0.0, |worst: f64, case| {
        let got = attend(device, case, split)?;
        Ok(worst.max(distance(wide(&got), &case.answer())))
    })
}

pub(crate) fn decode_attention() -> Check {
    let run = |device: &Device| {
        let few = [(1, 1), (1, 17), (1, 300)];
        let cases = [
            Attention::new((8, 1, 128), &few, 4, 0),
            Attention::new((8, 2, 128), &few, WHOLE, 0),
            Attention::new((2, 2, 128), &[(1, 130)], 0, 0),
            Attention::new((4, 2, 128), &[(1, 33), (1, 64)], 5, 0),
            Attention::new((8, 1, 64), &[(1, 63), (1, 129)], 4, 0),
            Attention::new((6, 2, 64), &few, 4, 40),
            Attention::new((8, 2, 64), &[(1, 65)], 3, 0),
            Attention::new((4, 2, 64), &[(1, 16), (1, 15)], 4, 0),
            Attention::new((4, 2, 32), &few, 4, 0),
            Attention::new((3, 1, 32), &[(1, 29)], WHOLE, 8),
            Attention::new((4, 1, 32), &[(1, 100)], 6, 0),
            Attention::new((8, 1, 32), &[(1, 7), (1, 1)], 0, 0),
            // Groups of eight go through tensor cores: two of them, and sixteen heads to one of keys and values.
            Attention::new((16, 2, 64), &[(1, 200), (1, 15)], 4, 70),
            Attention::new((16, 1, 32), &[(1, 66)], WHOLE, 0),
        ];
        worst_of(device, &cases, true)
    };
    // On tensor cores weights are rounded to bf16 before they meet the values.
    Check { name: "paged decode attention", most: 5e-3, run }
}

pub(crate) fn prefill_attention() -> Check {
    let run = |device: &Device| {
        let cases = [
            // A decode, a whole prompt, and a chunk with history whose end is in another tile.
            Attention::new((4, 2, 64), &[(1, 33), (70, 70), (20, 150)], 4, 0),
            Attention::new((2, 2, 128), &[(3, 65), (66, 66)], WHOLE, 0),
            Attention::new((3, 1, 32), &[(65, 133), (1, 1)], 0, 0),
            Attention::new((1, 1, 64), &[(80, 200)], 5, 40),
        ];
        worst_of(device, &cases, false)
    };
    // Weights are rounded to bf16 before they meet the values.
    Check { name: "paged prefill attention", most: 5e-3, run }
}

pub(crate) fn attention_is_invariant() -> Check {
    Check { name: "attention, any chunks", most: 0.0, run: run_invariant_attention }
}

/// Rows of one prompt at once, in chunks, and in other blocks: the same to the bit.
fn run_invariant_attention(device: &Device) -> Result<f64, CudaError> {
    let whole = Attention::new((2, 1, 64), &[(100, 100)], 4, 0);
    let want = attend(device, &whole, false)?;
    let mut worst = 0.0f64;
    let table: Vec<i32> = (0..100).map(|p| whole.slot(&whole.seqs[0], p) as i32).collect();
    for chunks in [&[30, 1, 69][..], &[64, 36], &[99, 1]] {
        let (mut seqs, mut end) = (Vec::new(), 0);
        for &rows in chunks {
            let row = end;
            end += rows;
            let seq = Seq { row, out: row, rows, context: end, table: 0, shift: 0 };
            seqs.push(seq);
        }
        let case = Attention {
            seqs,
            tables: table.clone(),
            queries: whole.queries.clone(),
            keys: whole.keys.clone(),
            values: whole.values.clone(),
            ..whole
        };
        worst = worst.max(exactly(&attend(device, &case, false)?, &want));
    }
    Ok(worst)
}

pub(crate) fn copy_slots() -> Check {
    Check { name: "KV copies", most: 0.0, run: run_copy_slots }
}

fn run_copy_slots(device: &Device) -> Result<f64, CudaError> {
    let heads = Heads { queries: 2, kv: 2, dim: 64 };
    let width = 128;
    let mut random = Random(4);
    let (mut a, mut b) = (KvPool::new(device, heads, 3, 8)?, KvPool::new(device, heads, 3, 11)?);
    let (mut first, mut second) = (random.bf16s(6 * 8 * width), random.bf16s(6 * 11 * width));
    a.data_mut().write(0, &first)?;
    b.data_mut().write(0, &second)?;
    device.copy_slots(None, &mut a, &[(0, 5), (1, 6), (0, 7)])?;
    device.copy_slots(Some(&a), &mut b, &[(5, 10), (2, 5)])?;
    for plane in 0..6 {
        let at = |slot: usize| (plane * 8 + slot) * width;
        for (from, to) in [(0, 5), (1, 6), (0, 7)] {
            first.copy_within(at(from)..at(from) + width, at(to));
        }
        for (from, to) in [(5, 10), (2, 5)] {
            let to = (plane * 11 + to) * width;
            second[to..to + width].copy_from_slice(&first[at(from)..][..width]);
        }
    }
    Ok(exactly(&fetched(a.data())?, &first).max(exactly(&fetched(b.data())?, &second)))
}
