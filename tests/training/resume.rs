//! Reproducibility of runs: a run is a function of its settings, whatever the number of threads, and wherever it was
//! stopped and resumed.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use maxmargin::record::events::EVENTS;
use maxmargin::record::run::{BEST, CONFIG, LAST, METRICS};
use maxmargin::record::{TensorData, TensorFile};

use crate::{assert_same, begin, done, go_on, metrics, run_files, temporary, tensors};

/// Flags of SGD with momentum in l2, with radii for that norm.
const SGD_L2: &str = "--optimizer sgd --momentum 0.9 --weight-decay 0.001 --learning-rate-schedule 0:0.1,7:0.05 \
                      --norm l2 --hinge-maxeps 2 --attack-mineps 0.5 --test-eps 2 --test-eps-iter 0.125 \
                      --search-loss-fn lm";
/// Flags of OMMA with every choice of the paper's text.
const OMMA_PAPER: &str = "--clean-loss-coeff 0 --fidelity paper";

/// Moment at which a process is killed.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// A time after its start.
    After(Duration),
    /// As soon as the last checkpoint is of this step or a later one.
    Checkpoint(u32),
    /// As soon as `metrics.jsonl` has this many lines.
    Lines(usize),
    /// As soon as the temporary file for the file of this name exists.
    Writing(&'static str),
}

impl Moment {
    fn has_come(self, run: &Path, began: Instant) -> bool {
        match self {
            Moment::After(delay) => began.elapsed() >= delay,
            Moment::Checkpoint(step) => {
                TensorFile::read(&run.join(LAST)).is_ok_and(|file| file.meta::<u32>("step").unwrap() >= step)
            }
            Moment::Lines(n) => {
                fs::read(run.join(METRICS)).is_ok_and(|b| b.iter().filter(|&&byte| byte == b'\n').count() >= n)
            }
            Moment::Writing(name) => {
                let prefix = format!(".{name}.");
                let entries = fs::read_dir(run).into_iter().flatten().flatten();
                entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            }
        }
    }
}

/// Runs `command` and kills it at `moment`. Returns false if it ended before, in which case it must have succeeded.
fn killed(command: &mut Command, run: &Path, moment: Moment) -> bool {
    let began = Instant::now();
    let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("the program starts");
    loop {
        if moment.has_come(run, began) {
            child.kill().expect("a process to kill");
        }
        if let Some(status) = child.try_wait().expect("a child") {
            assert!(status.success() || status.code().is_none(), "{command:?}: {status}");
            return !status.success();
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{moment:?} does not come");
        std::thread::sleep(Duration::from_micros(300));
    }
}

/// Commands that start a run in a folder and that resume it.
type Commands<'a> = (&'a dyn Fn(&Path) -> Command, &'a dyn Fn(&Path) -> Command);

/// Command that starts the run, or resumes it if it was started; on one thread and on two threads in turn.
fn next(run: &Path, (begin, go_on): Commands, turn: usize) -> Command {
    let mut command = if run.join(CONFIG).exists() { go_on(run) } else { begin(run) };
    command.args(["--threads", if turn.is_multiple_of(2) { "1" } else { "2" }]);
    command
}

fn ends_like_an_uninterrupted_run(changes: &str, moments: impl Iterator<Item = Moment>) -> usize {
    killed_ends_like_an_uninterrupted_run((&|run| begin(run, changes), &|run| go_on(run, "")), changes, moments)
}

/// Kills a run at each of `moments`, resumes it every time and lets it end at last. Asserts that it ends like an
/// uninterrupted run. Returns the number of kills.
pub fn killed_ends_like_an_uninterrupted_run(
    commands: Commands,
    what: &str,
    moments: impl Iterator<Item = Moment>,
) -> usize {
    let folder = temporary();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    done(&mut (commands.0)(&whole));
    let last = tensors(&whole, LAST);
    // Only MMA keeps a margin table.
    if let Some(margins) = last.tensors.iter().find(|tensor| tensor.name == "margins") {
        let attacked = matches!(&margins.data, TensorData::F32(margins) if margins.iter().any(|&margin| margin > 0.0));
        assert!(attacked, "{what}: nothing was attacked");
    }

    let mut kills = 0;
    for (turn, moment) in moments.enumerate() {
        if killed(&mut next(&parts, commands, turn), &parts, moment) {
            kills += 1;
        } else {
            break;
        }
    }
    done(&mut next(&parts, commands, kills));
    assert_same(&parts, &whole, &format!("{what:?} after {kills} kills"));
    kills
}

/// Half precision is part of the run, in attacks and in training passes: each gives weights of its own.
#[test]
fn a_run_in_half_precision_is_resumed_bit_for_bit() {
    let changes = "--precision fp16 --checkpoint-interval 1";
    let kills = ends_like_an_uninterrupted_run(changes, [4, 7].into_iter().map(Moment::Checkpoint));
    assert!(kills >= 1, "no kill");
    let folder = temporary();
    let [single, attack, half] = ["fp32", "fp16-attack", "fp16"].map(|precision| {
        let run = folder.path().join(precision);
        done(&mut begin(&run, &format!("--precision {precision}")));
        run
    });
    for (one, other) in [(&single, &attack), (&attack, &half), (&single, &half)] {
        assert!(run_files(one) != run_files(other), "{} made no difference to {}", one.display(), other.display());
    }
    let config = fs::read_to_string(half.join(CONFIG)).expect("settings");
    assert!(config.contains("precision = \"fp16\""), "{config}");
}

#[test]
fn a_run_killed_after_each_of_its_steps_ends_like_an_uninterrupted_run() {
    for settings in ["", SGD_L2, OMMA_PAPER] {
        let changes = format!("{settings} --checkpoint-interval 1");
        let kills = ends_like_an_uninterrupted_run(&changes, (0..12).map(Moment::Checkpoint));
        assert!(kills >= 6, "{settings}: only {kills} kills");
    }
}

#[test]
fn a_run_of_any_method_killed_between_its_checkpoints_ends_like_an_uninterrupted_run() {
    for method in ["omma", "std", "pgd", "pgdls", "trades"] {
        let moments = [2, 4, 8].map(Moment::Checkpoint);
        let kills = ends_like_an_uninterrupted_run(&format!("--method {method}"), moments.into_iter());
        assert!(kills >= 2, "{method}: only {kills} kills");
    }
}

/// The ramp is a setting of its own, so extending a run does not change it.
#[test]
fn an_extended_run_of_pgdls_keeps_its_ramp() {
    let folder = temporary();
    let (long, extended) = (folder.path().join("long"), folder.path().join("extended"));
    done(&mut begin(&long, "--method pgdls --eps-ramp-steps 5 --max-num-training-steps 20"));
    done(&mut begin(&extended, "--method pgdls --max-num-training-steps 10"));
    done(&mut go_on(&extended, "--max-num-training-steps 20"));
    assert_same(&extended, &long, "extended");
    assert_eq!(fs::read(extended.join(CONFIG)).unwrap(), fs::read(long.join(CONFIG)).unwrap());
}

#[test]
fn a_run_killed_sooner_or_later_ends_like_an_uninterrupted_run() {
    for settings in ["", SGD_L2] {
        // The time grows with every start, so the run ends.
        let longer = |delay: &Duration| Some(*delay + *delay / 6 + Duration::from_millis(9));
        let delays = std::iter::successors(Some(Duration::ZERO), longer);
        let kills = ends_like_an_uninterrupted_run(settings, delays.map(Moment::After));
        assert!(kills >= 5, "{settings}: only {kills} kills");
    }
}

#[test]
fn a_run_killed_while_it_writes_a_file_ends_like_an_uninterrupted_run() {
    let moments = [
        Moment::Writing(CONFIG),
        Moment::Writing(LAST),
        Moment::Lines(1),
        Moment::Writing(BEST),
        Moment::Checkpoint(3),
        Moment::Writing(LAST),
        Moment::Lines(4),
        Moment::Checkpoint(5),
        Moment::Lines(7),
        Moment::Writing(BEST),
        Moment::Checkpoint(9),
        Moment::Lines(10),
        Moment::Checkpoint(12),
    ];
    for settings in ["", OMMA_PAPER] {
        let kills = ends_like_an_uninterrupted_run(settings, moments.into_iter());
        assert!(kills >= 6, "{settings}: only {kills} kills");
    }
}

#[test]
fn a_run_killed_before_its_first_checkpoint_can_be_resumed() {
    let folder = temporary();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    done(&mut begin(&whole, ""));
    for files in [&[CONFIG][..], &[CONFIG, METRICS]] {
        fs::create_dir(&stopped).unwrap();
        fs::copy(whole.join(CONFIG), stopped.join(CONFIG)).unwrap();
        files[1..].iter().for_each(|name| fs::write(stopped.join(name), "").unwrap());
        done(&mut go_on(&stopped, ""));
        assert_same(&stopped, &whole, &format!("{files:?}"));
        fs::remove_dir_all(&stopped).unwrap();
    }
}

#[test]
fn a_run_killed_while_the_untrained_network_is_measured_still_records_its_figures() {
    let folder = temporary();
    let (whole, stopped) = (folder.path().join("whole"), folder.path().join("stopped"));
    done(&mut begin(&whole, "--checkpoint-interval 100 --train-size 1000"));
    assert!(killed(
        &mut begin(&stopped, "--checkpoint-interval 100 --train-size 1000"),
        &stopped,
        Moment::Checkpoint(0)
    ));
    done(&mut go_on(&stopped, ""));
    assert_same(&stopped, &whole, "killed at step 0");
    assert_eq!(metrics(&stopped)[0]["weights"], "initial");
}

#[test]
fn a_resumed_run_continues_its_event_file_for_tensorboard() {
    let folder = temporary();
    let (whole, plain, parts) = (folder.path().join("whole"), folder.path().join("plain"), folder.path().join("parts"));
    let length = |run: &Path| fs::metadata(run.join(EVENTS)).expect("an event file").len();
    done(begin(&whole, "").arg("--tensorboard"));
    done(&mut begin(&plain, ""));
    assert_same(&whole, &plain, "with events and without");
    assert!(!plain.join(EVENTS).exists());

    assert!(killed(begin(&parts, "--checkpoint-interval 1").arg("--tensorboard"), &parts, Moment::Checkpoint(4)));
    done(&mut go_on(&parts, ""));
    assert_eq!(run_files(&parts).metrics, run_files(&whole).metrics);
    assert_eq!(length(&parts), length(&whole), "as many figures");
    // An event file that is requested later holds the earlier lines too.
    done(go_on(&plain, "").arg("--tensorboard"));
    assert_eq!(length(&plain), length(&whole));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let folder = temporary();
    let others = ["std", "pgdls", "trades"].map(|method| (method, format!("--method {method}")));
    let of_mma =
        [("adam", ""), ("sgd", SGD_L2), ("omma", OMMA_PAPER)].map(|(name, settings)| (name, settings.to_owned()));
    for (name, settings) in of_mma.iter().chain(&others) {
        let runs = ["1", "2", "3"].map(|threads| {
            let run = folder.path().join(format!("{name}-{threads}"));
            done(begin(&run, settings).args(["--threads", threads]));
            run
        });
        assert_same(&runs[1], &runs[0], &format!("{name} on two threads"));
        assert_same(&runs[2], &runs[0], &format!("{name} on three threads"));
    }
}

#[test]
fn another_seed_gives_other_weights() {
    let folder = temporary();
    let runs = ["0", "1"].map(|seed| {
        let run = folder.path().join(seed);
        done(&mut begin(&run, &format!("--seed {seed}")));
        run_files(&run)
    });
    assert!(runs[0].last != runs[1].last && runs[0].best != runs[1].best && runs[0].metrics != runs[1].metrics);
}

#[test]
fn a_finished_run_that_is_resumed_prints_its_result_again_and_changes_nothing() {
    let folder = temporary();
    let run = folder.path().join("run");
    let first = done(&mut begin(&run, ""));
    let before = (run_files(&run), fs::read(run.join(CONFIG)).unwrap());
    assert_eq!(done(&mut go_on(&run, "")), first);
    assert!((run_files(&run), fs::read(run.join(CONFIG)).unwrap()) == before);
}

#[test]
fn a_run_extended_at_the_end_of_an_epoch_ends_as_one_planned_for_longer() {
    let folder = temporary();
    let (long, extended) = (folder.path().join("long"), folder.path().join("extended"));
    done(&mut begin(&long, "--max-num-training-steps 20"));
    done(&mut begin(&extended, "--max-num-training-steps 10"));
    done(&mut go_on(&extended, "--max-num-training-steps 20"));
    assert_same(&extended, &long, "extended");
    assert_eq!(fs::read(extended.join(CONFIG)).unwrap(), fs::read(long.join(CONFIG)).unwrap());
}

#[test]
fn a_run_extended_within_an_epoch_has_the_weights_of_one_planned_for_longer() {
    let folder = temporary();
    let (long, extended) = (folder.path().join("long"), folder.path().join("extended"));
    done(&mut begin(&long, "--max-num-training-steps 20"));
    done(&mut begin(&extended, ""));
    done(&mut go_on(&extended, "--steps 20"));
    assert_eq!(tensors(&extended, LAST).tensors, tensors(&long, LAST).tensors);
}
