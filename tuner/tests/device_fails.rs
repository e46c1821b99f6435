//! A GPU that fails under a trial ends the trial with the reason, and what ran before it stands.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use engine::exec::cuda::{Arithmetic, Layout};
use engine::model::llama::LlamaConfig;
use engine::model::random::RandomWeights;
use engine::{Config, DeviceProfile, Machine};
use kernels::cuda::emulator::{self, Fuse, Pretence};
use loadgen::Slo;
use tuner::subject::Relax;
use tuner::subject::bed::Testbed;
use workloads::{ReadOptions, Trace};

/// Six requests, one of which is long.
fn trace() -> Trace {
    let mut csv = "arrived_at,num_prefill_tokens,num_decode_tokens\n".to_owned();
    for (i, output) in [2, 3, 40, 2, 3, 2].into_iter().enumerate() {
        let _ = writeln!(csv, "{},{},{output}", i as f64 / 100.0, 8 + i);
    }
    workloads::read_bytes("vidur.csv", csv.as_bytes(), &ReadOptions::default()).unwrap()
}

#[test]
fn a_trial_says_why_it_ended() {
    if let Some(reason) = emulator::absent() {
        return println!("skipped: {reason}");
    }
    let fuse = Fuse::default();
    let pretence = Pretence { fuse: fuse.clone(), ..Pretence::default() };
    let device = emulator::pretending(Path::new(env!("CARGO_TARGET_TMPDIR")), pretence);
    let config = LlamaConfig { layers: 1, hidden: 32, heads: 2, ffn: 32, ..LlamaConfig::tiny() };
    let config = LlamaConfig { kv_heads: 1, ..config };
    let shape = Arc::new(config.shape());
    let mut weights = RandomWeights { config, seed: 1 };
    let layout = Layout::whole(Arithmetic::Fast);
    let machine = Machine::on_gpus(&mut weights, &[device], layout).unwrap();
    let trace = trace();
    let slo = Slo::parse::<&str>(&[], None).unwrap().bind(&trace.classes).unwrap();
    let profile = Arc::new(DeviceProfile::load("a100-sxm").unwrap());
    let bed = Testbed::new(Arc::new(trace), shape, profile, slo);
    let bed = bed.computed(Arc::new(machine)).with_kv_slots(512);
    let config = Config::default();
    let deployment = bed.deployment(&config, Relax::Nothing).unwrap();
    let whole = bed.saturated(&config).unwrap();
    assert_eq!(whole.summary.completed, 6);
    // Some fifteen kernels a pass, and forty passes: in the long request's middle.
    fuse.light(300);
    let mut iterations = 0;
    let said = bed.watched(&deployment, f64::INFINITY, &mut |_| iterations += 1).err().unwrap();
    assert_eq!(
        said.to_string(),
        "an emulated GPU failed: the emulator failed: an unspecified launch failure; 5 of 6 requests had been answered"
    );
    assert!((5..40).contains(&iterations), "{iterations} iterations were seen");
    // A device that has failed is of no more use, and that is said too.
    let again = bed.saturated(&config).unwrap_err().to_string();
    assert!(again.contains("an unspecified launch failure"), "{again}");
}
