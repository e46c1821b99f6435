//! `knee serve`: a model behind the OpenAI interface, on this machine.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::config::{AllocatorKind, KvDtype};
use engine::exec::cpu::{CpuModel, Precision, Team};
use engine::live::Live;
use engine::model::Model;
use engine::model::llama::LlamaConfig;
use engine::sample::Sampler;
use engine::server::{Metrics, Served, Service};
use engine::{Config, deployment, wiring};
use tokio::net::TcpListener;

use crate::cli::serve::{self, Serve};

/// How long requests may take that were under way when the server was asked to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Loads the model, says where it is served, and serves until it is told to end.
pub(crate) fn run(args: &Serve) -> Result<ExitCode> {
    let stop = super::cancel()?;
    let mut config = args.knobs.config()?;
    check(&config)?;
    let random = (args.weights == serve::Weights::Random).then_some(args.seed);
    let mut model = Model::open(&args.model, random)?;
    let llama = model.weights.config().clone();
    let slots = size(&mut config, &llama, args)?;
    let threads = args.threads.unwrap_or_else(cores);
    let team = Arc::new(Team::new(threads));
    let loaded = CpuModel::load(&team, &mut *model.weights, precision(args.precision));
    let loaded = Arc::new(loaded?);
    let name = args.served_model_name.clone().unwrap_or_else(|| name(&args.model));
    let (metrics, sampler) = (Metrics::new(&name), Sampler::default());
    let engine = wiring::on_cpu(&config, &loaded, &team, slots, &sampler);
    let tokenizer = Arc::new(model.tokenizer);
    let live = Live::start(engine, sampler, Some(Arc::clone(&tokenizer)), metrics.watch())?;
    let served = Served {
        name: name.clone(),
        tokenizer,
        chat: model.chat,
        ends: model.ends,
        vocab: llama.vocab,
        max_len: config.max_model_len,
    };
    let key = args.api_key.clone().or_else(|| std::env::var("KNEE_API_KEY").ok());
    let service = Service::new(live, served, metrics, args.max_queue, key);
    let ready = |address: SocketAddr| {
        let precision = format!("{:?}", args.precision).to_lowercase();
        format!(
            "serving {name} at http://{address} ({precision}, {threads} threads, {} workers x {slots} KV slots)\n",
            config.workers()
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let drained = runtime.block_on(listen(args, service, stop, ready))?;
    if !drained {
        bail!("ended with requests unanswered after {} seconds", PATIENCE.as_secs());
    }
    Ok(ExitCode::SUCCESS)
}

async fn listen(
    args: &Serve,
    service: Service,
    stop: &'static AtomicBool,
    ready: impl Fn(SocketAddr) -> String,
) -> Result<bool> {
    let listener = TcpListener::bind((args.host.as_str(), args.port)).await;
    let place = || format!("cannot listen on {}:{}", args.host, args.port);
    let listener = listener.with_context(place)?;
    super::print(&ready(listener.local_addr()?))?;
    let stopped = async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    Ok(service.serve(listener, stopped, PATIENCE).await)
}

/// Refuses knobs that one processor cannot be run with.
fn check(config: &Config) -> Result<()> {
    deployment::check(config)?;
    if config.tp > 1 || config.pp > 1 || config.replicas > 1 {
        bail!("--device cpu runs one rank of one replica: leave tp, pp and replicas at 1");
    }
    if config.kv_dtype != KvDtype::Bf16 {
        bail!(
            "--device cpu keeps keys and values in bf16 (in f32 with --precision f32): leave kv-dtype at bf16"
        );
    }
    Ok(())
}

/// Resolves `max_model_len` and gives the KV slots of each worker.
fn size(config: &mut Config, llama: &LlamaConfig, args: &Serve) -> Result<u32> {
    let longest = llama.max_position;
    match config.max_model_len {
        0 => config.max_model_len = longest,
        n if n > longest => bail!("max-model-len {n} is beyond the model's {longest} tokens"),
        _ => {}
    }
    let per_token = llama.shape(2).kv_bytes_per_token(config.kv_dtype, 1)
        * if args.precision == serve::Precision::F32 { 2 } else { 1 };
    let bytes = args.kv_memory * f64::from(1 << 30) / f64::from(config.workers());
    // More than everybody's longest sequence is of no use to anybody but a prefix cache.
    let useful = u64::from(config.max_model_len) * u64::from(config.max_seqs);
    let slots = ((bytes / per_token as f64) as u64).min(useful).min(u64::from(u32::MAX / 2)) as u32;
    let needed = match config.allocator {
        AllocatorKind::Paged => config.max_model_len.next_multiple_of(config.block_size),
        AllocatorKind::Contiguous => config.max_model_len.next_power_of_two(),
    };
    if slots < needed {
        bail!(
            "--kv-memory {} GiB holds {slots} tokens per worker, but one request may need {needed}: raise it, or lower max-model-len",
            args.kv_memory
        );
    }
    Ok(slots)
}

fn precision(typed: serve::Precision) -> Precision {
    match typed {
        serve::Precision::Int8 => Precision::Int8,
        serve::Precision::Bf16 => Precision::Bf16,
        serve::Precision::F32 => Precision::F32,
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What a model is called that is known by its path.
fn name(model: &str) -> String {
    let path = Path::new(model);
    let whole = if path.is_dir() { path.canonicalize().ok() } else { None };
    let path = whole.as_deref().unwrap_or(path);
    let last = if path.is_dir() { path.file_name() } else { path.file_stem() };
    last.map_or_else(|| model.to_owned(), |n| n.to_string_lossy().into_owned())
}
