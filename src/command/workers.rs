//! `knee bench --workers`: scripts with which Kubernetes or Slurm runs a command as several workers
//! under one schedule.

use std::time::SystemTime;

use tuner::export::quoted;

use super::secrets;
use crate::cli::Fleet;

/// The manifest or script for the command that was typed, beginning at `start`.
pub(crate) fn script(fleet: Fleet, start: SystemTime) -> String {
    let start = start.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let words = std::env::args().skip(1);
    render(fleet, &kept(words), start)
}

/// A part of a word: as typed, or a variable of the environment that stands for what is secret.
#[derive(Clone)]
enum Part {
    Typed(String),
    Secret(String),
}

type Word = Vec<Part>;

/// The words that every worker is given. A key is left out: it comes from the environment. So do the values of headers,
/// and an address with a password or a query in it.
fn kept(words: impl Iterator<Item = String>) -> Vec<Word> {
    const DROPPED: [&str; 4] = ["--workers", "--start-at", "--out", "--api-key"];
    let (mut kept, mut headers) = (Vec::new(), 0);
    let mut words = words.peekable();
    while let Some(word) = words.next() {
        let (flag, mut value) = match word.split_once('=') {
            Some((flag, value)) => (flag.to_owned(), Some(value.to_owned())),
            None => (word.clone(), None),
        };
        let taken = DROPPED.contains(&flag.as_str()) || flag == "--header" || flag == "--url";
        if !taken {
            kept.push(vec![Part::Typed(word)]);
            continue;
        }
        value = value.or_else(|| words.next());
        let Some(value) = value.filter(|_| !DROPPED.contains(&flag.as_str())) else { continue };
        kept.push(vec![Part::Typed(flag.clone())]);
        kept.push(match value.split_once(':') {
            Some((name, _)) if flag == "--header" => {
                headers += 1;
                let variable = format!("KNEE_HEADER_{headers}");
                vec![Part::Typed(format!("{name}: ")), Part::Secret(variable)]
            }
            _ if secrets::url(&value) != value => vec![Part::Secret("KNEE_URL".to_owned())],
            _ => vec![Part::Typed(value)],
        });
    }
    kept
}

/// The variables that the words name.
fn variables(words: &[Word]) -> Vec<&str> {
    fn named(part: &Part) -> Option<&str> {
        match part {
            Part::Secret(variable) => Some(variable),
            Part::Typed(_) => None,
        }
    }
    words.iter().flatten().filter_map(named).collect()
}

fn render(fleet: Fleet, words: &[Word], start: f64) -> String {
    match fleet {
        Fleet::Kubernetes(n) => kubernetes(n, words, start),
        Fleet::Slurm(n) => slurm(n, words, start),
    }
}

fn kubernetes(n: u32, words: &[Word], start: f64) -> String {
    let own = [format!("--worker=$(JOB_COMPLETION_INDEX)/{n}"), format!("--start-at={start}")];
    let out = ["--out=/results/$(JOB_COMPLETION_INDEX)".to_owned()];
    // Two dollar signs stand for one that is no variable's.
    let part = |part: &Part| match part {
        Part::Typed(text) => text.replace("$(", "$$("),
        Part::Secret(variable) => format!("$({variable})"),
    };
    let typed = words.iter().map(|word| word.iter().map(part).collect::<String>());
    let args: Vec<String> = (typed.chain(own).chain(out))
        .map(|w| format!("            - {}", serde_json::Value::from(w)))
        .collect();
    let args = args.join("\n");
    let secret = |variable: &&str| {
        let key = variable.to_ascii_lowercase().replace('_', "-");
        format!(
            "            - name: {variable}\n              valueFrom:\n                \
             secretKeyRef: {{ name: knee-bench, key: {key} }}\n"
        )
    };
    let secret: String = variables(words).iter().map(secret).collect();
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
{secret}          volumeMounts:
            - {{ name: results, mountPath: /results }}
      volumes:
        - name: results
          persistentVolumeClaim: {{ claimName: knee-results }}
"#,
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn slurm(n: u32, words: &[Word], start: f64) -> String {
    let wanted = variables(words).join(", ");
    let wanted = match wanted.is_empty() {
        true => String::new(),
        false => format!("\n# In its environment: {wanted}."),
    };
    let words: Vec<String> = words.iter().map(in_shell).collect();
    let (words, last) = (words.join(" "), n - 1);
    format!(
        r#"#!/bin/bash
#SBATCH --job-name=knee-bench
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --output=knee-worker-%a.log
# The schedule begins at {start} (seconds since 1970) whether or not every task runs by then: tasks that come later
# fail. Submit it from a folder that all nodes share. Afterwards: knee report knee-worker-*/{wanted}
exec knee {words} \
  --worker "$SLURM_ARRAY_TASK_ID/{n}" --start-at {start} --out "knee-worker-$SLURM_ARRAY_TASK_ID"
"#
    )
}

fn in_shell(word: &Word) -> String {
    let part = |part: &Part| match part {
        Part::Typed(text) => quoted(text),
        Part::Secret(variable) => format!("\"${variable}\""),
    };
    word.iter().map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Vec<Word> {
        let typed = "bench --url http://llm:8000 --workers=k8s=3 --api-key hush --rate 90 --start-at 1 --out x";
        let spaced = ["--header", "x-team$(id): blue"];
        kept(typed.split(' ').chain(spaced).map(str::to_owned))
    }

    #[test]
    fn a_kubernetes_job_as_expected() {
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
                    - "x-team$$(id): $(KNEE_HEADER_1)"
                    - "--worker=$(JOB_COMPLETION_INDEX)/3"
                    - "--start-at=1780000000"
                    - "--out=/results/$(JOB_COMPLETION_INDEX)"
                  env:
                    - name: OPENAI_API_KEY
                      valueFrom:
                        secretKeyRef: { name: openai-api-key, key: key, optional: true }
                    - name: KNEE_HEADER_1
                      valueFrom:
                        secretKeyRef: { name: knee-bench, key: knee-header-1 }
                  volumeMounts:
                    - { name: results, mountPath: /results }
              volumes:
                - name: results
                  persistentVolumeClaim: { claimName: knee-results }
        "##);
    }

    #[test]
    fn a_slurm_array_as_expected() {
        insta::assert_snapshot!(render(Fleet::Slurm(3), &words(), 1_780_000_000.5), @r##"
        #!/bin/bash
        #SBATCH --job-name=knee-bench
        #SBATCH --array=0-2
        #SBATCH --ntasks=1
        #SBATCH --output=knee-worker-%a.log
        # The schedule begins at 1780000000.5 (seconds since 1970) whether or not every task runs by then: tasks that come later
        # fail. Submit it from a folder that all nodes share. Afterwards: knee report knee-worker-*/
        # In its environment: KNEE_HEADER_1.
        exec knee bench --url http://llm:8000 --rate 90 --header 'x-team$(id): '"$KNEE_HEADER_1" \
          --worker "$SLURM_ARRAY_TASK_ID/3" --start-at 1780000000.5 --out "knee-worker-$SLURM_ARRAY_TASK_ID"
        "##);
    }

    #[test]
    fn an_address_with_a_secret_and_headers_come_from_the_environment() {
        let typed = [
            "bench",
            "--url=http://me:hush@h/v1?key=hush",
            "--header=a: hush",
            "--header",
            "b:hush",
        ];
        let words = kept(typed.map(str::to_owned).into_iter());
        for fleet in [Fleet::Kubernetes(2), Fleet::Slurm(2)] {
            let script = render(fleet, &words, 1.0);
            assert!(!script.contains("hush"), "{script}");
            for wanted in ["KNEE_URL", "KNEE_HEADER_1", "KNEE_HEADER_2"] {
                assert!(script.matches(wanted).count() >= 2, "{wanted} in {script}");
            }
        }
        let shell = kept(["bench", "--header", "a'b: hush"].map(str::to_owned).into_iter());
        let line = format!("KNEE_HEADER_1='blue $x'; printf %s {}", in_shell(&shell[2]));
        let output = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "a'b: blue $x");
    }
}
