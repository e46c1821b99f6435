//! Faults and gaps in published tables show in no profile.

use std::fs;
use std::path::Path;

use engine::config::KvDtype;
use engine::format::Format;
use engine::import::{Imported, SEED, import};
use engine::profile::{Basis, Collective, Delta, Exchange, Experts, Latent};
use engine::shape::Shape;
use tempfile::TempDir;

use super::{SHEET, gemm_rows};

/// A folder of tables as they are published, to be imported.
struct Tables(TempDir);

impl Tables {
    fn new() -> Self {
        let tables = Self(TempDir::new().unwrap());
        tables.put("gemm.vllm-0.25.0", &gemm_rows(1.0));
        tables
    }

    fn put(&self, table: &str, text: &str) {
        let folder = self.0.path().join("nvidia-vllm/toy");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{table}.csv")), text).unwrap();
    }

    fn import(&self) -> Imported {
        let sheet = SHEET.replace("aiconfigurator", "aisimulate");
        import(Path::new(self.0.path()), ("toy", &sheet), &[], SEED).unwrap()
    }
}

/// An expert layer on the toy device, which computes 1e12 and moves 1e11 a second: at half of its roofline, times a
/// factor by ranks and distribution.
fn moe(splits: &[(u32, &str, f64)], total: u32) -> String {
    let mut rows = "moe_dtype,num_tokens,hidden_size,inter_size,topk,num_experts,moe_tp_size,moe_ep_size,distribution,latency_ms\n".to_owned();
    for &(ranks, distribution, factor) in splits {
        for tokens in [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
            let load = f64::from(tokens) * 2.0 / f64::from(total);
            let held = f64::from(total / ranks);
            let weights = 3.0 * 512.0 * 256.0;
            let read = held * load.min(1.0) * weights * 2.0 + held * load * 1024.0;
            let seconds = (read / 1e11).max(2.0 * held * load * weights / 1e12);
            let ms = 2e3 * factor * seconds;
            rows += &format!("bfloat16,{tokens},512,256,2,{total},1,{ranks},{distribution},{ms}\n");
        }
    }
    rows
}

fn experts(held: u32, total: u32) -> Experts {
    Experts { hidden: 512, inter: 256, held, total, top_k: 2, gated: true }
}

#[test]
fn uneven_routing_is_a_factor_on_tokens_that_choose_at_random() {
    let tables = Tables::new();
    let rows = moe(&[(1, "balanced", 1.0), (1, "power_law_1.01", 1.25)], 16);
    // A factor is taken where several shapes have it.
    let narrower = |width: &str| {
        let rows = rows.split_once('\n').unwrap().1;
        rows.replace(",512,256,", &format!(",512,{width},"))
    };
    tables.put("moe.vllm-0.25.0", &(rows.clone() + &narrower("192") + &narrower("128")));
    let device = tables.import().profile;
    let law = device.routing.expect("rows of both kinds");
    assert_eq!(law.x.len(), law.per_mille["bf16"].len());
    // With one token both kinds read as many experts; with very many all are read, however they were chosen.
    for load in [law.x[0], law.x[law.x.len() - 1]] {
        let factor = law.factor(Format::Bf16, true, load);
        assert!((1.2..1.4).contains(&factor), "{load}: {factor}");
    }
    tables.put("moe.vllm-0.25.0", &moe(&[(1, "balanced", 1.0)], 16));
    assert_eq!(tables.import().profile.routing, None);
}

#[test]
fn experts_are_priced_by_even_routing_and_not_by_a_lucky_rank() {
    let tables = Tables::new();
    let lucky = [(1, "balanced", 1.0), (4, "balanced", 1.0), (4, "power_law_1.01", 0.3)];
    tables.put("moe.vllm-0.25.0", &moe(&lucky, 16));
    let found = tables.import();
    let device = &found.profile;
    let times = device.experts(experts(4, 16), Format::Bf16);
    assert_eq!(*times.basis(), Basis::Measured);
    for tokens in [1.0, 8.0, 64.0, 1024.0] {
        let ratio = times.at(tokens, 0.0) / times.roofline(tokens);
        assert!((1.7..2.2).contains(&ratio), "{tokens}: {ratio}");
    }
    let fit = device.fit["experts.bf16"];
    assert_eq!((fit.rows, fit.left_out), (22, 11));
    assert_eq!(device.operators["experts"]["bf16"].timed_under, "vLLM 0.25.0");
    // A split that was not timed lies between those that were; a format that was not is said to be borrowed.
    assert_eq!(*device.experts(experts(8, 16), Format::Bf16).basis(), Basis::Interpolated);
    let int4 = device.experts(experts(4, 16), Format::Int4);
    assert_eq!(
        int4.basis().to_string(),
        "not measured: its roofline with the efficiency of experts in bf16"
    );
    assert!(int4.at(64.0, 0.0) < times.at(64.0, 0.0));
}

#[test]
fn where_no_routing_was_even_the_mildest_skew_on_one_rank_stands_in() {
    let tables = Tables::new();
    tables.put(
        "moe.vllm-0.25.0",
        &moe(&[(1, "power_law_1.01", 1.0), (4, "power_law_1.01", 0.3)], 16),
    );
    let fit = tables.import().profile.fit["experts.bf16"];
    assert_eq!((fit.rows, fit.left_out), (11, 11));
}

#[test]
fn experts_faster_than_memory_were_not_all_awake() {
    let tables = Tables::new();
    tables.put(
        "moe.vllm-0.25.0",
        &(moe(&[(1, "balanced", 1.0)], 16)
            + moe(&[(1, "balanced", 0.3)], 32).split_once('\n').unwrap().1),
    );
    let found = tables.import();
    let fit = found.profile.fit["experts.bf16"];
    assert_eq!((fit.rows, fit.left_out), (11, 11));
    assert!(found.notes.iter().any(|n| n.contains("not all of their experts were awake")));
}

#[test]
fn a_split_that_engines_refuse_is_not_measured() {
    let tables = Tables::new();
    tables
        .put("moe.vllm-0.25.0", &moe(&[(1, "balanced", 1.0)], 16).replace("bfloat16", "fp8_block"));
    let device = tables.import().profile;
    let of = |inter| device.experts(Experts { inter, ..experts(16, 16) }, Format::Fp8Block);
    assert_eq!(*of(256).basis(), Basis::Measured);
    assert!(of(192).basis().is_borrowed(), "{}", of(192).basis());
}

#[test]
fn a_cell_seventeen_times_too_long_is_left_out() {
    let plain = Tables::new().import();
    let tables = Tables::new();
    let rows = gemm_rows(1.0);
    let hit: Vec<String> = rows
        .lines()
        .map(|line| match line.strip_prefix("bfloat16,test,64,1024,512,") {
            Some(ms) => {
                format!("bfloat16,test,64,1024,512,{}", 17.0 * ms.parse::<f64>().unwrap())
            }
            None => line.to_owned(),
        })
        .collect();
    tables.put("gemm.vllm-0.25.0", &hit.join("\n"));
    let found = tables.import();
    assert_eq!(found.profile.fit["gemm"].left_out, plain.profile.fit["gemm"].left_out + 1);
    let at = |of: &Imported| of.profile.gemm(1024.0, 512.0, Format::Bf16).at(64.0, 0.0);
    assert!((at(&found) / at(&plain) - 1.0).abs() < 0.15, "{} {}", at(&found), at(&plain));
}

#[test]
fn times_of_nothing_beside_the_products_change_nothing() {
    let tables = Tables::new();
    let plain = tables.import();
    // The quantisation that fp8 products hold already; some of its cells are empty.
    tables.put("computescale.vllm-0.25.0", "quant_dtype,m,k,latency_ms\nfp8,16,512,0.0\n");
    assert_eq!(tables.import().toml, plain.toml);
}

#[test]
fn the_newest_version_of_each_table_is_read() {
    let tables = Tables::new();
    tables.put("gemm.vllm-0.9.2", &gemm_rows(3.0));
    let found = tables.import();
    assert_eq!(found.profile.gemm.timed_under, "vLLM 0.25.0");
    assert_eq!(found.notes[0], "gemm is of vLLM 0.25.0");
}

#[test]
fn a_delta_net_takes_its_convolution_and_its_recurrence() {
    let tables = Tables::new();
    let mut rows = "op_name,phase,batch_size,seq_len,num_tokens,d_model,d_conv,num_k_heads,head_k_dim,num_v_heads,head_v_dim,model_name,latency_ms\n".to_owned();
    for seqs in [1, 2, 4, 8, 16, 32, 64] {
        for share in [0.25, 0.75] {
            let ms = share * 0.2 * f64::from(seqs);
            rows += &format!("gdn,generation,{seqs},1,{seqs},1024,4,4,128,8,128,m,{ms}\n");
        }
    }
    // One without its partner.
    rows += "gdn,generation,128,1,128,1024,4,4,128,8,128,m,1.0\n";
    tables.put("gdn.vllm-0.25.0", &rows);
    let device = tables.import().profile;
    assert_eq!(device.fit["delta_decode.bf16"].rows, 7);
    let delta = Delta { key_heads: 4, value_heads: 8, key_dim: 128, value_dim: 128 };
    let mut shape = Shape::default();
    (0..32).for_each(|_| shape.add(999, 1, true, true));
    let ratio = device.delta_net(delta).decode(&shape) / (0.2e-3 * 32.0);
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
}

#[test]
fn blocks_collectives_and_exchanges_are_read_with_their_units() {
    let tables = Tables::new();
    let mut rows =
        "model,kv_cache_dtype,gemm_type,num_heads,batch_size,isl,step,latency_ms\n".to_owned();
    for seqs in [1, 4, 16, 64] {
        for context in [128, 1024, 8192] {
            let mut shape = Shape::default();
            (0..seqs).for_each(|_| shape.add(context, 1, true, true));
            let peaks = Tables::new().import().profile.peaks();
            let latent = Latent::deepseek_v3(16);
            let ms = 2e3 * latent.decode_roofline(&peaks, Format::Bf16, KvDtype::Bf16, &shape);
            rows +=
                &format!("deepseek-ai/DeepSeek-V3,bfloat16,bfloat16,16,{seqs},1,{context},{ms}\n");
        }
    }
    tables.put("mla_generation_module.vllm-0.25.0", &rows);
    let mut rows = "op_name,nccl_dtype,num_gpus,message_size,latency_ms\n".to_owned();
    for elements in [1 << 16, 1 << 20, 1 << 24] {
        // Half of what the links allow: half a tensor of two bytes an element.
        rows += &format!("all_gather,half,2,{elements},{}\n", 2e3 * f64::from(elements) / 1e9);
    }
    tables.put("nccl.2.29.2", &rows);
    let mut rows = "comm_backend,phase,comm_dtype,ep_size,node_num,hidden_size,topk,num_experts,num_tokens,latency_ms\n".to_owned();
    for tokens in [8, 64, 512] {
        // In microseconds, whatever the column says.
        rows += &format!("deepep_ll,dispatch,default,8,1,1000,8,256,{tokens},{}\n", 10 * tokens);
    }
    tables.put("moe_a2a.vllm-0.24.0", &rows);
    let device = tables.import().profile;
    let mut shape = Shape::default();
    (0..16).for_each(|_| shape.add(1024, 1, true, true));
    let latent = Latent::deepseek_v3(16);
    let blocks = device.latent_attention(latent, Format::Bf16, KvDtype::Bf16);
    assert_eq!(*blocks.basis()[1], Basis::Measured);
    assert!(blocks.basis()[0].is_borrowed(), "no prompts were timed");
    let roof = latent.decode_roofline(&device.peaks(), Format::Bf16, KvDtype::Bf16, &shape);
    let ratio = blocks.decode(&shape) / roof;
    assert!((1.8..2.2).contains(&ratio), "{ratio}");
    let gather = device.collective(Collective::AllGather, 2);
    let ratio = gather.at(2.0 * f64::from(1 << 24), 0.0) / (2.0 * f64::from(1 << 24) / 1e9);
    assert!((0.9..1.1).contains(&ratio), "{ratio}");
    assert_eq!(device.operators["all_gather"]["bf16"].timed_under, "NCCL 2.29.2");
    assert!(device.collective(Collective::AllToAll, 2).basis().is_borrowed());
    let there = device.exchange(Exchange::LowLatency, true, [1000, 8, 256], 8);
    assert!((there.at(512.0, 0.0) / 5.12e-3 - 1.0).abs() < 0.05, "{}", there.at(512.0, 0.0));
    assert!(device.exchange(Exchange::LowLatency, false, [1000, 8, 256], 8).basis().is_borrowed());
}
