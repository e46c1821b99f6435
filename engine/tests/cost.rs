//! The cost model obeys the laws of the hardware it stands for, whatever the iteration.

use engine::config::KvDtype;
use engine::engines::HostTime;
use engine::exec::cost::{CostModel, Ranks, Widths};
use engine::exec::speed;
use engine::model::ModelShape;
use engine::profile::{Collective, DeviceProfile};
use engine::{EngineProfile, Shape};
use proptest::prelude::*;

fn cost(model: &str, device: &str, tp: u32, pp: u32, kv: KvDtype) -> CostModel {
    let (model, device) = (ModelShape::load(model).unwrap(), DeviceProfile::load(device).unwrap());
    CostModel::new(&model, &device, tp, pp, kv, 2048)
}

fn llama_8b() -> CostModel {
    cost("llama-3.1-8b", "h100", 1, 1, KvDtype::Bf16)
}

/// `decodes` sequences of `length`, and one prompt chunk after `history` tokens where `chunk` > 0.
fn shape(decodes: u32, length: u32, chunk: u32, history: u32) -> Shape {
    let mut shape = Shape::default();
    for _ in 0..decodes {
        shape.add(length - 1, 1, true, true);
    }
    if chunk > 0 {
        shape.add(history, chunk, false, true);
    }
    shape
}

fn ms(cost: &CostModel, shape: &Shape) -> f64 {
    cost.stage_ns(shape) as f64 * 1e-6
}

#[test]
fn an_h100_takes_about_as_long_as_one_does() {
    let cost = llama_8b();
    let decode = |seqs, length| ms(&cost, &shape(seqs, length, 0, 0));
    assert!((6.3..7.3).contains(&decode(1, 1000)), "{}", decode(1, 1000));
    assert!((7.5..9.5).contains(&decode(32, 1000)), "{}", decode(32, 1000));
    assert!((17.0..25.0).contains(&decode(256, 1000)), "{}", decode(256, 1000));
    let prefill = ms(&cost, &shape(0, 1, 2048, 0));
    assert!((48.0..62.0).contains(&prefill), "{prefill}");
}

#[test]
fn a_decode_is_bound_by_memory_and_a_prompt_by_compute() {
    let on = |device| {
        let cost = cost("llama-3.1-8b", device, 1, 1, KvDtype::Bf16);
        (ms(&cost, &shape(64, 2000, 0, 0)), ms(&cost, &shape(0, 1, 2048, 0)))
    };
    let (h100, h200) = (on("h100"), on("h200"));
    assert!(h200.0 < 0.85 * h100.0, "the H200 has 43 % more bandwidth: {h100:?} {h200:?}");
    assert!(h200.1 > 0.93 * h100.1, "and the same compute: {h100:?} {h200:?}");
}

#[test]
fn a_share_of_matrix_products_is_theirs_alone() {
    let model = ModelShape::load("llama-3.1-8b").unwrap();
    let device = DeviceProfile::load("rtx4090").unwrap();
    let of = |share| {
        let device = DeviceProfile { sustained_gemm: share, ..device.clone() };
        let cost = CostModel::new(&model, &device, 1, 1, KvDtype::Bf16, 2048);
        [shape(32, 1000, 2016, 0), shape(32, 1000, 0, 0)].map(|shape| cost.breakdown(&shape))
    };
    let ([prompt, decodes], [slower, same]) = (of(None), of(Some(0.8)));
    assert!((slower.dense / prompt.dense - 1.25).abs() < 1e-9, "computing bounds a prompt");
    assert_eq!(slower.prefill_attention, prompt.prefill_attention);
    assert_eq!(same, decodes, "reading bounds decodes");
}

#[test]
fn kernels_that_were_timed_together_are_looked_up_together() {
    let model = ModelShape::load("llama-3.1-8b").unwrap();
    let mut device = DeviceProfile::load("h100").unwrap();
    let cost = |device: &DeviceProfile| CostModel::new(&model, device, 1, 1, KvDtype::Bf16, 2048);
    let apart = cost(&device).elementwise(300);
    device.elementwise_together = true;
    let bytes = 300.0 * 2.0 * Widths::new(&model.dense().unwrap(), 1).moved.iter().sum::<f64>();
    let together = cost(&device).elementwise(300);
    assert!((together / device.elementwise().at(bytes, 0.0) - 1.0).abs() < 1e-9);
    assert!(together < apart, "one start instead of four: {together} {apart}");
}

#[test]
fn a_tile_more_of_tokens_is_a_step() {
    // On this card 513 to 576 tokens take about as long as one another in the tables, a fifth more than 512.
    let cost = cost("llama-3.1-8b", "rtx4090", 1, 1, KvDtype::Bf16);
    let [before, after, end] = [512, 513, 576].map(|tokens| cost.dense(tokens));
    assert!(after > 1.15 * before && end < 1.05 * after, "{before} {after} {end}");
}

#[test]
fn tensor_parallelism_halves_the_work_and_adds_sums() {
    let at = |tp| {
        cost("llama-3.1-70b", "h100", tp, 1, KvDtype::Bf16).breakdown(&shape(64, 1000, 512, 0))
    };
    let (one, two, eight) = (at(1), at(2), at(8));
    assert_eq!(one.all_reduce, 0.0);
    assert!(two.all_reduce > 0.0 && eight.all_reduce > 0.0);
    let ratio = two.dense / one.dense;
    assert!((0.48..0.58).contains(&ratio), "{ratio}");
    assert!(two.decode_attention < 0.65 * one.decode_attention);
    assert!(eight.total() < two.total() && two.total() < one.total());
    let across =
        cost("llama-3.1-70b", "h100", 16, 1, KvDtype::Bf16).breakdown(&shape(64, 1000, 512, 0));
    assert!(across.all_reduce > 2.0 * eight.all_reduce, "sums over two nodes cross the network");
}

#[test]
fn stages_share_the_layers_and_hand_over_activations() {
    let work = shape(64, 1000, 256, 0);
    let of = |pp| cost("llama-3.1-70b", "h100", 1, pp, KvDtype::Bf16);
    let (one, four) = (of(1), of(4));
    let (a, b) = (one.breakdown(&work), four.breakdown(&work));
    assert!((b.dense / a.dense - 0.25).abs() < 1e-9);
    assert_eq!(b.head, a.head, "the slowest stage is the last, which has the head");
    assert_eq!(one.handoff_ns(1000), 0);
    assert!(four.handoff_ns(1000) > four.handoff_ns(10) && four.handoff_ns(10) > 0);
    assert!(of(16).handoff_ns(1000) > 4 * four.handoff_ns(1000), "sixteen stages span two nodes");
    // 80 layers on 3 stages: 27, 27, 26 and the head. Long contexts make a layer dearer than the head.
    let long = shape(256, 8000, 0, 0);
    let three = of(3).breakdown(&long);
    assert!(
        (three.decode_attention / one.breakdown(&long).decode_attention - 27.0 / 80.0).abs() < 1e-9
    );
    assert_eq!(three.head, 0.0);
}

#[test]
fn fp8_halves_what_is_read_and_what_is_sent() {
    let (wide, narrow) = (llama_8b(), cost("llama-3.1-8b", "h100", 1, 1, KvDtype::Fp8));
    let work = shape(256, 4000, 0, 0);
    let part = |cost: &CostModel| cost.breakdown(&work).decode_attention;
    let ratio = part(&narrow) / part(&wide);
    // Half is read, at a lower share of the memory's rate: its kernels were timed as they are.
    assert!((0.5..0.7).contains(&ratio), "{ratio}");
    let (long, short) =
        (wide.kv_transfer_ns(100_000) as f64, narrow.kv_transfer_ns(100_000) as f64);
    assert!((short / long - 0.5).abs() < 0.01);
    assert_eq!(wide.kv_transfer_ns(0), 0);
    assert!(narrow.kv_copy(1000) < wide.kv_copy(1000));
}

#[test]
fn a_transfer_takes_what_its_bytes_take() {
    let device = DeviceProfile::load("h100").unwrap();
    let bytes = 1000.0 * 131_072.0;
    let by_hand =
        (device.network.start_us * 1e3 + bytes / device.network.bandwidth * 1e9 + 0.5) as u64;
    assert_eq!(llama_8b().kv_transfer_ns(1000), by_hand);
}

#[test]
fn tables_hold_what_the_laws_give() {
    let (model, device) =
        (ModelShape::load("qwen3-32b").unwrap(), DeviceProfile::load("a100").unwrap());
    let of = |rows| CostModel::new(&model, &device, 4, 2, KvDtype::Bf16, rows);
    let (tabulated, formula) = (of(16_384), of(0));
    for tokens in
        [1, 2, 3, 15, 64, 255, 256, 1000, 1024, 1025, 4096, 16_383, 16_384, 16_385, 60_000]
    {
        let work = shape(tokens.min(1500), 700, tokens, 0);
        assert_eq!(tabulated.stage_ns(&work), formula.stage_ns(&work), "{tokens}");
    }
}

#[test]
fn one_kernel_starts_once() {
    let cost = llama_8b();
    let (both, decodes, prompt) =
        (shape(32, 500, 128, 0), shape(32, 500, 0, 0), shape(0, 1, 128, 0));
    let attention = |s: &Shape| {
        let b = cost.breakdown(s);
        b.prefill_attention + b.decode_attention
    };
    assert!(attention(&both) < attention(&decodes) + attention(&prompt));
}

#[test]
fn experts_are_read_as_far_as_tokens_choose_them() {
    let moe = cost("openai/gpt-oss-120b", "h100", 1, 1, KvDtype::Bf16);
    let at = |tokens| moe.breakdown(&shape(tokens, 1000, 0, 0)).dense;
    // One token goes through 4 of 128 experts, 32 through some 70 of them, 1,000 through all, and some of these longer.
    let (one, some, all) = (at(1), at(32), at(1000));
    assert!((4.0..16.0).contains(&(some / one)), "{}", some / one);
    assert!(all / some < 5.0, "{}", all / some);
}

#[test]
fn a_window_ends_what_decodes_read() {
    let windowed = cost("openai/gpt-oss-120b", "h100", 1, 1, KvDtype::Bf16);
    let at = |length| windowed.breakdown(&shape(64, length, 0, 0)).decode_attention;
    let growth = (at(32_000) - at(16_000)) / (at(16_000) - at(8_000));
    assert!((1.8..2.2).contains(&growth), "the layers that see everything grow: {growth}");
    let full = cost("llama-3.1-8b", "h100", 1, 1, KvDtype::Bf16);
    let of = |cost: &CostModel, length| cost.breakdown(&shape(64, length, 0, 0)).decode_attention;
    // Half of its layers keep to 128 tokens.
    let (a, b) = (at(64_000) / at(1000), of(&full, 64_000) / of(&full, 1000));
    assert!(a < 0.9 * b, "{a} {b}");
}

#[test]
fn the_busiest_of_the_ranks_that_share_experts_decides() {
    let model = ModelShape::load("Qwen/Qwen3-30B-A3B").unwrap();
    let device = DeviceProfile::load("h200").unwrap();
    let at = |ep, tokens| {
        let ranks = Ranks { tp: 4, dp: 1, ep, pp: 1 };
        CostModel::on(&model, &device, ranks, KvDtype::Bf16, 2048).dense(tokens)
    };
    for tokens in [1, 8, 64, 2048] {
        let (width, whole) = (at(1, tokens), at(4, tokens));
        assert!((0.4..4.5).contains(&(whole / width)), "{tokens}: {whole} {width}");
    }
    assert!(at(4, 1) > at(1, 1), "a token's experts lie on some of the ranks");
}

#[test]
fn tokens_that_fill_a_graph_wake_experts() {
    let moe = cost("Qwen/Qwen3-30B-A3B", "h200", 1, 1, KvDtype::Bf16);
    let grown = |from, to| moe.dense(to) - moe.dense(from);
    for (size, next) in [(4, 8), (8, 16), (16, 24)] {
        assert!(grown(size + 1, next) < 0.1 * grown(size, size + 1), "{size} to {next}");
    }
    // Products of dense layers compute whole tiles of rows anyway.
    let dense = cost("llama-3.1-8b", "h200", 1, 1, KvDtype::Bf16);
    assert!(dense.dense(9) < 1.01 * dense.dense(8));
}

#[test]
fn small_sums_are_fused_with_the_norms_after_them() {
    let model = ModelShape::load("llama-3.1-70b").unwrap();
    let fused = DeviceProfile::load("b200").unwrap();
    let mut alone = fused.clone();
    alone.all_reduce.iter_mut().for_each(|sum| sum.fused_bytes = 0);
    let of = |device: &DeviceProfile, tp, tokens| {
        let cost = CostModel::new(&model, device, tp, 1, KvDtype::Bf16, 2048);
        let batch = shape(tokens, 1000, 0, 0);
        let parts = cost.breakdown(&batch);
        assert!((ms(&cost, &batch) * 1e-3 / parts.total() - 1.0).abs() < 0.01, "{tokens}");
        (parts.all_reduce, parts.elementwise)
    };
    for tp in [2, 4, 8] {
        let law = fused.all_reduce_law(tp);
        for tokens in [1, 16, 64, 128, 2000] {
            let (one, two) = (of(&fused, tp, tokens), of(&alone, tp, tokens));
            let bytes = f64::from(tokens) * 2.0 * 8192.0;
            if bytes > law.fused_bytes as f64 {
                assert_eq!(one, two);
                continue;
            }
            let least = law.start_us * 1e-6 + bytes / law.bandwidth;
            assert!(one.0 <= two.0 && one.0 > 0.999 * 160.0 * least, "{tp} {tokens}");
            let norms = two.1 - one.1;
            let kernels = 160.0 * fused.elementwise.start_us * 1e-6;
            assert!((norms / kernels - 1.0).abs() < 1e-9, "{tp} {tokens}: {norms}");
        }
    }
    assert_eq!(of(&fused, 1, 16), of(&alone, 1, 16), "one rank sums nothing");
    assert!(of(&fused, 8, 32).0 < 0.7 * of(&alone, 8, 32).0, "two rounds become one");
}

#[test]
fn norms_over_all_heads_need_a_sum_of_their_own() {
    let sums = |model: &str| {
        let shape_of = ModelShape::load(model).unwrap();
        let layers = f64::from(shape_of.layers.count());
        let cost = cost(model, "h200", 4, 1, KvDtype::Bf16);
        cost.breakdown(&shape(4, 1000, 0, 0)).all_reduce / layers
    };
    let (heads, all) = (sums("zai-org/GLM-4.5"), sums("MiniMaxAI/MiniMax-M2.5"));
    assert!((1.3..1.6).contains(&(all / heads)), "three sums a layer, not two: {all} {heads}");
}

/// The cost on B300s of a model with small layers, launched as vLLM does; `change` is made to that.
fn launched(model: &str, tp: u32, change: fn(&mut HostTime)) -> CostModel {
    let (model, device) = (ModelShape::load(model).unwrap(), DeviceProfile::load("b300").unwrap());
    let mut host = EngineProfile::load("vllm@0.20").unwrap().outside.host_time(tp, true);
    change(&mut host);
    CostModel::new(&model, &device, tp, 1, KvDtype::Bf16, 8192).hosted(host)
}

#[test]
fn an_iteration_takes_no_less_than_launching_its_kernels() {
    let small = "Qwen/Qwen3.6-35B-A3B";
    let cost = launched(small, 4, |_| ());
    let free = launched(small, 4, |host| host.launch.kernel = 0.0);
    let prompt = |tokens| shape(0, 1, tokens, 0);
    let [least, pieces, all] = [512, 513, 1024].map(|tokens| ms(&cost, &prompt(tokens)));
    assert!(least > ms(&free, &prompt(512)), "attention is launched between graphs");
    assert_eq!(pieces, all, "launching takes as long for any number of tokens");
    assert!(all > 1.5 * least, "beyond the largest graph every kernel is launched: {least} {all}");
    let long = prompt(100_000);
    assert_eq!(ms(&cost, &long), ms(&free, &long), "computing takes longer than launching");
    let decodes = shape(64, 1000, 0, 0);
    assert_eq!(ms(&cost, &decodes), ms(&free, &decodes), "decodes are one graph");
    let parts = cost.breakdown(&prompt(1024));
    assert!((1e3 * parts.total() / all - 1.0).abs() < 1e-6 && parts.host > 0.0);
    let alone = launched(small, 4, |host| host.launch.pieces = false);
    assert_eq!(ms(&alone, &prompt(100)), all, "graphs of decodes alone");
    assert_eq!(ms(&alone, &decodes), ms(&cost, &decodes));
    // Layers of a large model take longer than launching them.
    let [large, free] = [20e3, 0.0].map(|kernel| {
        let (model, device) =
            (ModelShape::load("llama-3.1-8b").unwrap(), DeviceProfile::load("h100").unwrap());
        let mut host = EngineProfile::load("vllm").unwrap().outside.host_time(1, true);
        host.launch.kernel = kernel;
        let cost = CostModel::new(&model, &device, 1, 1, KvDtype::Bf16, 8192).hosted(host);
        [128, 600, 4096].map(|tokens| ms(&cost, &prompt(tokens)))
    });
    assert_eq!(large, free);
}

#[test]
fn uneven_routing_wakes_fewer_experts_and_keeps_some_of_them_longer() {
    let model = ModelShape::load("openai/gpt-oss-120b").unwrap();
    let uneven = DeviceProfile::load("h100").unwrap();
    let even = DeviceProfile { routing: None, ..uneven.clone() };
    let of = |device: &DeviceProfile, tokens| {
        CostModel::new(&model, device, 1, 1, KvDtype::Bf16, 8192).dense(tokens)
    };
    let ratio = |tokens| of(&uneven, tokens) / of(&even, tokens);
    assert!((0.7..0.95).contains(&ratio(64)), "{}", ratio(64));
    assert!((1.1..1.6).contains(&ratio(1024)), "{}", ratio(1024));
    assert!((0.95..1.1).contains(&ratio(8192 * 8)), "{}", ratio(8192 * 8));
}

#[test]
fn ranks_of_a_sum_bring_a_share_of_the_tokens_each_to_the_experts_of_all() {
    let model = ModelShape::load("Qwen/Qwen3-30B-A3B").unwrap();
    let device = DeviceProfile::load("h200").unwrap();
    let of = |ranks| CostModel::on(&model, &device, ranks, KvDtype::Bf16, 2048);
    let [shared, copied] = [4, 1].map(|ep| of(Ranks { tp: 2, dp: 2, ep, pp: 1 }));
    let batch = shape(8, 1000, 0, 0);
    let sums = |cost: &CostModel| cost.breakdown(&batch).all_reduce;
    let ratio = sums(&shared) / sums(&copied);
    assert!((0.4..0.6).contains(&ratio), "attention's sum stays: {ratio}");
    // All four exchange, and the two of a rank of attention gather what is theirs.
    let bytes = |tokens: f64| tokens * 2.0 * f64::from(model.hidden);
    let way = |of, ranks, tokens| device.collective(of, ranks).at(bytes(tokens), 0.0);
    for tokens in [64.0, 4096.0] {
        let least = way(Collective::AllGather, 4, tokens)
            + way(Collective::ReduceScatter, 4, tokens)
            + way(Collective::AllGather, 2, tokens / 2.0);
        assert!(shared.shared_ns(tokens as u64) as f64 > 48.0 * least * 1e9 * 0.999, "{tokens}");
    }
}

#[test]
fn ranks_of_attention_share_the_time_of_experts() {
    let model = ModelShape::load("Qwen/Qwen3-30B-A3B").unwrap();
    let device = DeviceProfile::load("h200").unwrap();
    let of = |tp, dp, ep| {
        let ranks = Ranks { tp, dp, ep, pp: 1 };
        CostModel::on(&model, &device, ranks, KvDtype::Bf16, 2048)
    };
    let batch = shape(0, 0, 1024, 0);
    let whole = of(1, 1, 1);
    assert_eq!(whole.shared_ns(1024), 0, "one rank meets nobody");
    for (dp, ep) in [(2, 1), (4, 4), (8, 8), (16, 16)] {
        let cost = of(1, dp, ep);
        assert!(cost.stage_ns(&batch) < whole.stage_ns(&batch), "the experts come apart");
        let ways = [Collective::AllGather, Collective::ReduceScatter];
        let ways = ways.map(|way| device.collective(way, dp.min(8)));
        let mut before = 0;
        for tokens in [1, 2, 16, 100, 512, 4096, 16_384, 100_000, 1_000_000] {
            let ns = cost.shared_ns(tokens);
            assert!(ns >= before, "{tokens} tokens on {dp} ranks");
            before = ns;
            let bytes = tokens as f64 * 2.0 * f64::from(model.hidden);
            let least: f64 = ways.iter().map(|way| way.at(bytes, 0.0)).sum();
            assert!(ns as f64 > 48.0 * least * 1e9 * 0.999, "{tokens} tokens go to {dp} ranks");
        }
    }
    // Two nodes: a byte over the network takes longer than within a node.
    let slope = |cost: &CostModel| cost.shared_ns(1_000_000) - cost.shared_ns(500_000);
    let (near, far) = (of(1, 8, 8), of(1, 16, 16));
    let network = 48.0 * 2.0 * 500_000.0 * 4096.0 / 16.0 / device.network.bandwidth * 1e9;
    assert!(slope(&far) as f64 > network, "{} {network}", slope(&far));
    assert!(slope(&far) as f64 > network + slope(&near) as f64 / 4.0);
}

/// Any shape a scheduler could make, and some that none could.
fn any_shape() -> impl Strategy<Value = Shape> {
    let counts = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    (counts, any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), 0_u32..40).prop_map(
        |(
            (prefill_seqs, prefill_tokens, decode_seqs, sampled, drafted),
            context,
            pairs,
            decode_context,
            copied_tokens,
            bits,
        )| {
            Shape {
                prefill_seqs: prefill_seqs >> bits.min(31),
                prefill_tokens: prefill_tokens >> bits.min(31),
                prefill_context: context >> bits,
                prefill_pairs: pairs >> bits,
                prefill_tile_pairs: (pairs >> bits).saturating_mul(2),
                prefill_tiles: u64::from(prefill_tokens >> bits.min(31)) / 64,
                prefill_longest: 0,
                prefill_widest: 0,
                decode_seqs: decode_seqs >> bits.min(31),
                decode_context: decode_context >> bits,
                decode_longest: 0,
                drafted: drafted >> bits.min(31),
                draft_longest: (drafted >> bits.min(31)).min(16),
                sampled: sampled >> bits.min(31),
                copied_tokens: copied_tokens >> bits,
            }
        },
    )
}

/// A worker, by what [`cost`] takes.
type Worker = (&'static str, &'static str, u32, u32, KvDtype);

fn any_worker() -> impl Strategy<Value = Worker> {
    let models: Vec<_> = ModelShape::names().collect();
    let devices: Vec<_> = DeviceProfile::names().collect();
    let ranks = prop::sample::select(vec![1_u32, 2, 4, 8, 16]);
    let kv = prop::sample::select(&KvDtype::ALL);
    (prop::sample::select(models), prop::sample::select(devices), ranks, 1_u32..5, kv)
}

fn of((model, device, tp, pp, kv): Worker) -> CostModel {
    cost(model, device, tp, pp, kv)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_shape_is_free_or_breaks_anything(worker in any_worker(), shape in any_shape()) {
        let cost = of(worker);
        let ns = cost.stage_ns(&shape);
        prop_assert!(ns > 0);
        let total = cost.breakdown(&shape).total() * 1e9;
        prop_assert!(total.is_finite());
        prop_assert!((ns as f64 - total.min(u64::MAX as f64)).abs() <= 1.0 + total * 1e-9, "{} {}", ns, total);
        prop_assert!(cost.breakdown(&shape).parts().iter().all(|(_, s)| *s >= 0.0));
        let _ = (cost.handoff_ns(shape.prefill_tokens), cost.kv_transfer_ns(shape.prefill_tokens));
    }

    #[test]
    fn more_work_never_takes_less(
        worker in any_worker(), decodes in 0_u32..1100, length in 1_u32..131_072, chunk in 0_u32..16_384,
        history in 0_u32..131_072, more in 1_u32..3000,
    ) {
        let cost = of(worker);
        let base = cost.stage_ns(&shape(decodes, length, chunk, history));
        prop_assert!(cost.stage_ns(&shape(decodes + more, length, chunk, history)) >= base);
        prop_assert!(cost.stage_ns(&shape(decodes, length, chunk + more, history)) >= base);
        prop_assert!(cost.stage_ns(&shape(decodes, length + more, chunk, history)) >= base);
        prop_assert!(cost.stage_ns(&shape(decodes, length, chunk, history + more)) >= base);
        let mut another = shape(decodes, length, chunk, history);
        another.add(0, more, false, true);
        prop_assert!(cost.stage_ns(&another) > base);
        let mut longer = shape(decodes, length, chunk, history);
        longer.add(length + more, 1, true, true);
        prop_assert!(cost.stage_ns(&longer) > base);
        let mut copied = shape(decodes, length, chunk, history);
        copied.copied_tokens = u64::from(more);
        prop_assert!(cost.stage_ns(&copied) > base);
    }

    #[test]
    fn nothing_beats_the_data_sheet(
        (model, device, tp, _, kv) in any_worker(), decodes in 0_u32..1100, length in 1_u32..131_072,
        chunk in 0_u32..16_384, history in 0_u32..131_072,
    ) {
        let cost = cost(model, device, tp, 1, kv);
        let (model, device) = (ModelShape::load(model).unwrap(), DeviceProfile::load(device).unwrap());
        let work = shape(decodes, length, chunk, history);
        prop_assume!(work.tokens() > 0);
        let seconds = cost.stage_ns(&work) as f64 * 1e-9;
        let ranks = f64::from(tp);
        prop_assert!(seconds >= speed::flops(&model, &work) / (ranks * speed::peak_flops(&model, &device)));
        prop_assert!(seconds >= speed::bytes(&model, kv, tp, &work) / (ranks * device.memory_bandwidth));
        // Each operator alone, too, where all layers are alike.
        let Some(dense) = model.dense() else { return Ok(()) };
        let (tokens, part) = (u64::from(work.tokens()), cost.breakdown(&work));
        let widths = Widths::new(&dense, tp);
        let gemms: f64 = (widths.gemms.iter())
            .map(|(n, k)| {
                let (m, weight) = (tokens as f64, dense.format.element_bytes());
                let moved = (weight * n * k + 2.0 * m * (n + k)) / device.memory_bandwidth;
                moved.max(2.0 * m * n * k / device.peaks().rate(dense.format))
            })
            .sum();
        prop_assert!(cost.dense(tokens) >= gemms * (1.0 - 1e-12));
        let (query, heads) = (f64::from(widths.heads.query), widths.heads);
        let pairs = query * 4.0 * f64::from(heads.dim) * work.prefill_pairs as f64 / device.peak_flops;
        let layers = f64::from(dense.layers);
        let attention = part.prefill_attention + part.decode_attention;
        prop_assert!(attention >= layers * pairs * (1.0 - 1e-12), "{} {}", attention, layers * pairs);
        let kv_bytes = 2.0 * f64::from(heads.kv * heads.dim) * if kv == KvDtype::Fp8 { 1.0 } else { 2.0 };
        let read = layers * kv_bytes * work.decode_context as f64 / device.memory_bandwidth;
        prop_assert!(part.decode_attention >= read * (1.0 - 1e-12));
    }

    #[test]
    fn equal_totals_take_equal_time(worker in any_worker(), lengths in prop::collection::vec(1_u32..5000, 1..50)) {
        let cost = of(worker);
        let decodes = |lengths: &[u32]| {
            let mut shape = Shape::default();
            lengths.iter().for_each(|&n| shape.add(n, 1, true, true));
            shape
        };
        let mut reversed = lengths.clone();
        reversed.reverse();
        let (mut walked, next): (Shape, Vec<u32>) = (decodes(&lengths), reversed.iter().map(|n| n + 1).collect());
        walked.next_decode();
        prop_assert_eq!(cost.stage_ns(&walked), cost.stage_ns(&decodes(&next)));
    }
}
