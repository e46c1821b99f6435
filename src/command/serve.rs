//! `knee serve`: a model behind the OpenAI interface, on this machine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use engine::config::AllocatorKind;
use engine::live::Live;
use engine::machine::Clock;
use engine::model::renderer::Renderer;
use engine::router::Router;
use engine::sample::Sampler;
use engine::server::{Metrics, Served, Service};
use engine::{Config, Engine, Machine, deployment, wiring};
use tokio::net::TcpListener;

use crate::cli::serve::Serve;
use crate::computing::Here;

/// The time that requests under way have left when the server is asked to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// The default number of requests that may wait to be started.
const MAX_QUEUE: u32 = 256;

/// Requests that are read and tokenised at once; each takes a processor while it is.
const READERS: usize = 4;

/// Loads the model, prints its address, and serves until it is told to end.
pub(crate) fn run(args: &Serve) -> Result<ExitCode> {
    let stop = super::cancel()?;
    let mut config = args.knobs.over(Config { max_queue: MAX_QUEUE, ..Config::default() })?;
    check(&config)?;
    let device = args.computing.device(&args.device)?;
    let mut model = args.computing.open(&args.model)?;
    let here = args.computing.compute(&device, &args.model, &mut model, &config)?;
    // Each replica is a machine of its own.
    let replicas = std::mem::replace(&mut config.replicas, 1);
    if let Some(reason) = here.machine.refuses(&config) {
        bail!("{reason}");
    }
    let slots = size(&mut config, &here)?;
    let name = args.served_model_name.clone().unwrap_or_else(|| here.shape.name.clone());
    let (metrics, sampler) = (Metrics::new(&name), Sampler::default());
    let samplers = || Box::new(sampler.clone()) as _;
    let workers = config.workers() * replicas;
    let engine = |machine: &Machine| -> Result<Engine> {
        let executors = machine.executors(config.workers(), slots, Clock::Real, samplers)?;
        Ok(wiring::engine(&config, slots, executors).drafting(wiring::drafter(&config)))
    };
    let engines: Vec<Engine> = match replicas {
        1 => vec![engine(&here.machine)?],
        n => {
            let machines = here.machine.replicas(n);
            machines
                .context("a GPU serves one replica: leave replicas at 1")?
                .iter()
                .map(engine)
                .collect::<Result<_>>()?
        }
    };
    let (tokenizer, router) = (Arc::new(model.tokenizer), Router::new(config.router));
    let text = Some(Arc::clone(&tokenizer));
    let live = Live::start_replicas(engines, router, sampler.clone(), text, metrics.watch())?;
    let fault = live.fault();
    let program = program()?;
    let chat = model.chat.map(|template| Renderer::start(template, program)).transpose();
    let chat = chat.with_context(|| args.model.clone())?;
    let served = Served {
        name: name.clone(),
        tokenizer,
        chat,
        ends: model.ends,
        vocab: here.shape.vocab,
        max_len: config.max_model_len,
    };
    let key = args.api_key.clone().or_else(|| std::env::var("KNEE_API_KEY").ok());
    let places = (config.max_queue > 0).then_some(config.max_queue as usize * replicas as usize);
    let service = Service::new(live, served, metrics, places, key);
    let ready = |address: SocketAddr| {
        format!(
            "serving {name} at http://{address} on {}, {workers} workers x {slots} KV slots\n",
            here.name,
        )
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(READERS)
        .build()?;
    let stopped = || stop.load(Ordering::Relaxed) || fault.get().is_some();
    let drained = runtime.block_on(listen(args, service, stopped, ready))?;
    if let Some(fault) = fault.get() {
        bail!("{fault}");
    }
    if !drained {
        bail!("ended with requests unanswered after {} seconds", PATIENCE.as_secs());
    }
    Ok(ExitCode::SUCCESS)
}

/// This program, also where its file was replaced since it was started.
fn program() -> std::io::Result<PathBuf> {
    let running = Path::new("/proc/self/exe");
    if running.exists() { Ok(running.to_owned()) } else { std::env::current_exe() }
}

async fn listen(
    args: &Serve,
    service: Service,
    stopped: impl Fn() -> bool,
    ready: impl Fn(SocketAddr) -> String,
) -> Result<bool> {
    let (host, port) = args.listen.address();
    let listener = TcpListener::bind((host, port)).await;
    let place = || format!("cannot listen on {host}:{port}");
    let listener = listener.with_context(place)?;
    super::print(&ready(listener.local_addr()?))?;
    let end = async {
        while !stopped() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    Ok(service.serve(listener, end, PATIENCE).await)
}

/// Refuses knobs that this machine cannot be run with.
fn check(config: &Config) -> Result<()> {
    deployment::check(config)?;
    if config.replicas > 1 && config.workers() > 1 {
        bail!("several replicas of several workers cannot share this machine: leave replicas at 1");
    }
    Ok(())
}

/// Resolves `max_model_len` and gives the KV slots of each worker.
fn size(config: &mut Config, here: &Here) -> Result<u32> {
    let longest = here.shape.max_context;
    match config.max_model_len {
        0 => config.max_model_len = longest,
        n if n > longest && !config.allow_long_context => bail!(
            "max-model-len {n} is beyond the model's {longest} tokens: lower it, or add --allow-long-context"
        ),
        _ => {}
    }
    // More slots than the longest sequence of every seat are of use to a prefix cache only.
    let useful = u64::from(config.max_model_len) * u64::from(config.max_seqs);
    let slots = u64::from(here.kv_slots).min(useful) as u32;
    let needed = match config.allocator {
        AllocatorKind::Paged => config.max_model_len.next_multiple_of(config.block_size),
        AllocatorKind::Contiguous => config.max_model_len.next_power_of_two(),
    };
    if slots < needed {
        bail!(
            "--kv-memory holds {slots} tokens per worker, but one request may need {needed}: raise it, or lower max-model-len"
        );
    }
    Ok(slots)
}
