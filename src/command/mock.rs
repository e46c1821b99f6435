//! `knee mock`: a server of known latency.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::ExitCode;

use anyhow::{Context, Result};
use loadgen::{Mock, MockOptions};

use super::{cancel, print};
use crate::cli;

pub(crate) fn run(args: cli::Mock) -> Result<ExitCode> {
    let log = args.log.as_ref().map(|path| -> Result<Box<dyn Write + Send>> {
        let file =
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Box::new(BufWriter::with_capacity(1 << 20, file)))
    });
    let options = MockOptions {
        model: args.model,
        ttft: args.ttft,
        itl: args.itl,
        slots: args.slots,
        output: args.output,
        stalls: args.stall,
        ready_after: args.ready_after,
        faults: args.fault,
        retry_after: args.retry_after,
        api_key: args.api_key,
        seed: args.seed,
        log_prompts: args.log_prompts,
    };
    let stop = cancel()?;
    let (host, port) = args.listen.address();
    let mock = Mock::bind((host, port), options, log.transpose()?)
        .with_context(|| format!("cannot listen on {host}:{port}"))?;
    print(&format!("Serving on http://{}/v1 until Ctrl-C\n", mock.address()))?;
    let served = mock.serve(stop)?;
    print(&format!(
        "{} requests, {} answered to the end, {} tokens, {} connections, at most {} streams at once\n",
        served.requests, served.completed, served.tokens, served.connections, served.peak_streams
    ))?;
    Ok(ExitCode::SUCCESS)
}
