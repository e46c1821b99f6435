//! `knee bench --workers`: what makes Kubernetes or Slurm run a command as several workers under one schedule.

use std::time::SystemTime;

use crate::cli::Fleet;

/// The manifest or script for the command that was typed, beginning at `start`.
pub(crate) fn script(fleet: Fleet, start: SystemTime) -> String {
    let start = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let words = std::env::args().skip(1);
    render(fleet, &kept(words), start)
}

/// The words that every worker is given. A key is not printed: it comes from the environment.
fn kept(words: impl Iterator<Item = String>) -> Vec<String> {
    const DROPPED: [&str; 4] = ["--workers", "--start-at", "--out", "--api-key"];
    let (mut kept, mut skip) = (Vec::new(), false);
    for word in words {
        let flag = word.split('=').next().unwrap_or_default();
        if std::mem::take(&mut skip) {
            continue;
        }
        if DROPPED.contains(&flag) {
            skip = !word.contains('=');
        } else {
            kept.push(word);
        }
    }
    kept
}

fn render(fleet: Fleet, words: &[String], start: f64) -> String {
    match fleet {
        Fleet::Kubernetes(n) => kubernetes(n, words, start),
        Fleet::Slurm(n) => slurm(n, words, start),
    }
}

fn kubernetes(n: u32, words: &[String], start: f64) -> String {
    let own = [format!("--worker=$(JOB_COMPLETION_INDEX)/{n}"), format!("--start-at={start}")];
    let out = ["--out=/results/$(JOB_COMPLETION_INDEX)".to_owned()];
    // Two dollar signs stand for one that is no variable's.
    let typed = words.iter().map(|w| w.replace("$(", "$$("));
    let args: Vec<String> = (typed.chain(own).chain(out))
        .map(|w| format!("            - {}", serde_json::Value::from(w)))
        .collect();
    let args = args.join("\n");
    format!(
        r#"# Choose an image with knee in it and a volume that all pods can write to. The schedule begins at {start}
# (seconds since 1970) whether or not every pod runs by then: pods that come later fail. Afterwards:
#   knee report /results/*
apiVersion: batch/v1
kind: Job
metadata:
  name: knee-bench
spec:
  completionMode: Indexed
  completions: {n}
  parallelism: {n}
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
        - name: knee
          image: knee:{version}
          command: ["knee"]
          args:
{args}
          env:
            - name: OPENAI_API_KEY
              valueFrom:
                secretKeyRef: {{ name: openai-api-key, key: key, optional: true }}
          volumeMounts:
            - {{ name: results, mountPath: /results }}
      volumes:
        - name: results
          persistentVolumeClaim: {{ claimName: knee-results }}
"#,
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn slurm(n: u32, words: &[String], start: f64) -> String {
    let words: Vec<String> = words.iter().map(|w| quoted(w)).collect();
    let (words, last) = (words.join(" "), n - 1);
    format!(
        r#"#!/bin/bash
#SBATCH --job-name=knee-bench
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --output=knee-worker-%a.log
# The schedule begins at {start} (seconds since 1970) whether or not every task runs by then: tasks that come later
# fail. Submit it from a folder that all nodes share. Afterwards: knee report knee-worker-*/
exec knee {words} \
  --worker "$SLURM_ARRAY_TASK_ID/{n}" --start-at {start} --out "knee-worker-$SLURM_ARRAY_TASK_ID"
"#
    )
}

/// One word of a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:=+@%,".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<String> {
        let typed = "bench --url http://llm:8000 --workers=k8s=3 --api-key hush --rate 90 --start-at 1 --out x";
        let spaced = ["--header", "x-team: a'b $(id)"];
        kept(typed.split(' ').chain(spaced).map(str::to_owned))
    }

    #[test]
    fn an_indexed_job() {
        insta::assert_snapshot!(render(Fleet::Kubernetes(3), &words(), 1_780_000_000.0), @r##"
        # Choose an image with knee in it and a volume that all pods can write to. The schedule begins at 1780000000
        # (seconds since 1970) whether or not every pod runs by then: pods that come later fail. Afterwards:
        #   knee report /results/*
        apiVersion: batch/v1
        kind: Job
        metadata:
          name: knee-bench
        spec:
          completionMode: Indexed
          completions: 3
          parallelism: 3
          backoffLimit: 0
          template:
            spec:
              restartPolicy: Never
              containers:
                - name: knee
                  image: knee:0.1.0
                  command: ["knee"]
                  args:
                    - "bench"
                    - "--url"
                    - "http://llm:8000"
                    - "--rate"
                    - "90"
                    - "--header"
                    - "x-team: a'b $$(id)"
                    - "--worker=$(JOB_COMPLETION_INDEX)/3"
                    - "--start-at=1780000000"
                    - "--out=/results/$(JOB_COMPLETION_INDEX)"
                  env:
                    - name: OPENAI_API_KEY
                      valueFrom:
                        secretKeyRef: { name: openai-api-key, key: key, optional: true }
                  volumeMounts:
                    - { name: results, mountPath: /results }
              volumes:
                - name: results
                  persistentVolumeClaim: { claimName: knee-results }
        "##);
    }

    #[test]
    fn an_array() {
        insta::assert_snapshot!(render(Fleet::Slurm(3), &words(), 1_780_000_000.5), @r##"
        #!/bin/bash
        #SBATCH --job-name=knee-bench
        #SBATCH --array=0-2
        #SBATCH --ntasks=1
        #SBATCH --output=knee-worker-%a.log
        # The schedule begins at 1780000000.5 (seconds since 1970) whether or not every task runs by then: tasks that come later
        # fail. Submit it from a folder that all nodes share. Afterwards: knee report knee-worker-*/
        exec knee bench --url http://llm:8000 --rate 90 --header 'x-team: a'\''b $(id)' \
          --worker "$SLURM_ARRAY_TASK_ID/3" --start-at 1780000000.5 --out "knee-worker-$SLURM_ARRAY_TASK_ID"
        "##);
    }
}
