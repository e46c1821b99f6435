//! A user's settings: `knee.toml`, and the commands that make shells and manuals know the program.

use super::*;

/// A folder with a file of settings, a home with another, and the program run between them.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new(of_folder: &str, of_user: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("work/below")).unwrap();
        std::fs::create_dir_all(dir.path().join("home/.config/knee")).unwrap();
        std::fs::write(dir.path().join("work/knee.toml"), of_folder).unwrap();
        std::fs::write(dir.path().join("home/.config/knee/knee.toml"), of_user).unwrap();
        Self { dir }
    }

    fn run(&self, folder: &str, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
        command.args(args).current_dir(self.dir.path().join(folder));
        command.env("HOME", self.dir.path().join("home")).env_remove("XDG_CONFIG_HOME");
        command.output().unwrap()
    }

    fn json(&self, folder: &str, args: &[&str]) -> Value {
        let out = self.run(folder, args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        serde_json::from_slice(&out.stdout).unwrap()
    }

    fn refused(&self, args: &[&str]) -> String {
        let out = self.run("work", args);
        let said = text(&out.stderr);
        assert_eq!((out.status.code(), said.lines().count()), (Some(1), 1), "{args:?}: {said}");
        said
    }
}

const FEW: [&str; 4] = ["bench", "--requests", "40", "--json"];

#[test]
fn a_flag_beats_the_folder_which_beats_the_user() {
    let place = Place::new(
        "devices = ['h200-sxm', 'a100-sxm']\ntargets = ['ttft=2s']\n",
        "model = 'mistral-7b'\ndevices = 'a100-sxm'\n",
    );
    let said = place.json("work", &FEW);
    assert_eq!(
        (said["device"].as_str(), said["model"].as_str()),
        (Some("h200-sxm"), Some("mistral-7b"))
    );
    assert_eq!(said["slo"][0], "ttft:p99=2s");
    // A file above the folder counts as well; a flag replaces the value whole.
    let typed = [&FEW[..], &["--device", "h100-sxm", "--slo", "tpot=1s"]].concat();
    let said = place.json("work/below", &typed);
    assert_eq!(
        (said["device"].as_str(), said["model"].as_str()),
        (Some("h100-sxm"), Some("mistral-7b"))
    );
    assert_eq!(said["slo"], serde_json::json!(["tpot:p99=1s"]));
    // Help shows the default that is in force.
    let help = text(&place.run("work", &["bench", "--help"]).stdout);
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(help.contains("[default: h200-sxm]"), "{help}");
}

#[test]
fn settings_are_shown_with_their_places() {
    let place =
        Place::new("# ours\ndevices = ['b200', 'h200-sxm']\n", "devices = 'a40'\ngpus = 4\n");
    let shown = text(&place.run("work/below", &["config"]).stdout);
    for line in [
        "devices   b200, h200-sxm  ../knee.toml:2, over ~/.config/knee/knee.toml:1",
        "gpus      4               ~/.config/knee/knee.toml:2",
        "targets   -",
        "../knee.toml: read",
        "~/.config/knee/knee.toml: read",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
    let told = place.json("work", &["config", "--json"]);
    assert_eq!(told["settings"]["gpus"]["from"]["line"], 2);
    assert_eq!(told["settings"]["model"]["values"], Value::Null);
    assert_eq!(told["settings"]["devices"]["over"]["file"], "~/.config/knee/knee.toml");
    let home = place.dir.path().join("home/.config");
    let mut command = Command::new(env!("CARGO_BIN_EXE_knee"));
    command.arg("config").current_dir(place.dir.path()).env("XDG_CONFIG_HOME", home);
    let shown = text(&command.output().unwrap().stdout);
    assert!(
        shown.contains("$XDG_CONFIG_HOME/knee/knee.toml: read")
            && shown.contains("knee.toml: not there"),
        "{shown}"
    );
}

#[test]
fn mistakes_in_settings_are_told_with_their_line() {
    for (settings, says) in [
        ("\ndevice = 'b200'\n", "knee.toml:2: unknown key `device`: did you mean devices?"),
        ("targets = ['ttft=0.2']\n", "knee.toml:1: targets: "),
        ("prices = 'gone.toml'\n", "knee.toml:1: prices: no file `gone.toml`"),
        ("# x\ndevices = 'b20'\n", "did you mean b200? "),
    ] {
        let place = Place::new(settings, "");
        let said = place.refused(&FEW);
        assert!(said.contains(says), "{said}");
        // Help and the version are there all the same.
        assert!(place.run("work", &["--help"]).status.success());
    }
    // A value that turns out wrong later is traced to its place.
    let said = Place::new("# x\ndevices = 'tpu'\n", "").refused(&FEW);
    assert!(
        said.contains("unknown device `tpu`") && said.contains("devices is set in knee.toml:2"),
        "{said}"
    );
}

#[test]
fn a_page_says_which_defaults_came_from_a_file() {
    let place = Place::new("devices = 'h200-sxm'\nprices = 'p.toml'\n", "");
    std::fs::write(place.dir.path().join("work/p.toml"), "h200-sxm = 1.25\n").unwrap();
    let out =
        place.run("work", &["bench", "--requests", "40", "--out", "out", "--price", "h200-sxm=2"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
    let page = std::fs::read_to_string(place.dir.path().join("work/out/report.html")).unwrap();
    for said in [
        "--device h200-sxm, which was not typed",
        "devices in knee.toml:1",
        "prices in knee.toml:2",
    ] {
        assert!(page.contains(said), "{said}");
    }
    // A folder of results knows that its device was another one.
    std::fs::write(place.dir.path().join("work/knee.toml"), "devices = 'b200'\n").unwrap();
    let said = place.refused(&["bench", "--requests", "40", "--out", "out"]);
    assert!(said.contains("--device was h200-sxm, and is b200"), "{said}");
}

#[test]
fn shells_and_manuals_know_every_command() {
    for (shell, holds) in
        [("bash", "complete -F"), ("zsh", "#compdef knee"), ("fish", "complete -c knee")]
    {
        let out = knee(&["completions", shell]);
        let script = text(&out.stdout);
        assert!(out.status.success() && script.contains(holds), "{shell}");
        for word in ["tune", "max-batch-tokens", "calibrate"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    // A shell takes it.
    let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(&knee(&["completions", "bash"]).stdout).unwrap();
    assert!(bash.wait().unwrap().success());
    let dir = tempfile::tempdir().unwrap();
    let said = text(&knee(&["man", dir.path().to_str().unwrap()]).stdout);
    let page = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
    assert!(
        page("knee.1").contains("knee\\-tune(1)") && page("knee-tune.1").contains("max\\-seqs")
    );
    assert!(
        page("knee-profile-check.1").contains("knee\\-profile\\-check") && said.contains("pages"),
        "{said}"
    );
}
