//! Requests that ask for too much are refused with the sensible range, before memory is taken or anything is computed.

use crate::{done_in, refused, refused_in};

#[test]
fn numbers_that_no_machine_can_compute_are_refused_with_their_range() {
    for (line, flag, range) in [
        ("train --threads 100000", "--threads", "from 1 to 1024"),
        ("evaluate w --threads 100000", "--threads", "from 1 to 1024"),
        ("evaluate w --attack square --nb-iter 4294967295", "--nb-iter", "from 1 to 1000000"),
        ("evaluate w --nb-restart 4294967295", "--nb-restart", "from 1 to 10000"),
        ("evaluate w --attack spsa --nb-sample 4294967295", "--nb-sample", "from 1 to 1000000"),
        ("evaluate w --batch-size 1000000", "--batch-size", "from 1 to 65536"),
        ("attack w --batch-size 1000000", "--batch-size", "from 1 to 65536"),
        ("transfer v w --batch-size 1000000", "--batch-size", "from 1 to 65536"),
        ("evaluate w --test-size 99999999999", "--test-size", "from 1 to 1000000"),
        ("train --nb-iter 4294967295", "--nb-iter", "from 1 to 100000"),
        ("train --num-search-steps 1000", "--num-search-steps", "from 1 to 100"),
        ("train --batch-size 1000000", "--training-batch-size", "from 1 to 65536"),
        ("train --train-size 99999999999", "--train-size", "from 1 to 1000000"),
        ("train --val-size 99999999999", "--val-size", "from 1 to 1000000"),
        ("train --steps 4294967295", "--max-num-training-steps", "from 1 to 100000000"),
        ("train --checkpoint-interval 4294967295", "--checkpoint-interval", "from 1 to 100000000"),
        ("bench --megabytes 1000000", "--megabytes", "from 1 to 4096"),
        ("bench --product 1048576", "--product", "from 1 to 32768"),
        ("bench --rounds 1000000000", "--rounds", "from 1 to 10000"),
        ("explain --multiprocessors 1000000000", "--multiprocessors", "from 1 to 1024"),
    ] {
        refused(line, &[flag, &format!("a whole number {range}")]);
    }
}

#[test]
fn lengths_beyond_the_largest_distance_of_two_images_are_refused_with_a_suggestion() {
    let linf = "expected at most 1, as pixels go from 0 to 1: 8/255 is 8 of 255 levels; found ";
    for (line, flag, found) in [
        ("evaluate w --eps 8", "--eps", "8"),
        ("evaluate w --eps 0.1,1.5", "--eps", "0.1, 1.5"),
        ("attack w --eps 8", "--eps", "8"),
        ("transfer v w --eps 8", "--eps", "8"),
        ("evaluate w --eps-iter 2", "--eps-iter", "2"),
        ("evaluate w --hinge-maxeps 12", "--hinge-maxeps", "12.0"),
        ("train --hinge-maxeps 12", "--hinge-maxeps", "12.0"),
        ("train --method pgd --attack-eps 8", "--attack-eps", "8.0"),
        ("train --test-eps 8", "--test-eps", "8.0"),
        ("train --preset mnist-l2 --norm linf", "--hinge-maxeps", "4.0"),
    ] {
        refused(line, &[&format!("{flag}: {linf}{found}")]);
    }
    refused("evaluate w --norm l2 --eps 128", &["--eps: expected at most 28, the l2 distance of a black image from"]);
}

#[test]
fn a_decimal_comma_is_refused_as_what_it_is() {
    let parts = ["--eps: expected positive numbers; found 0, 3 (a decimal comma makes two numbers of one: write 0.3)"];
    refused("evaluate w --eps 0,3", &parts);
    refused("evaluate w --norm l2 --eps 0,3", &parts);
    refused("evaluate w --eps 0", &["--eps: expected positive numbers; found 0\n"]);
    refused("train --hinge-maxeps 0,3", &["'0,3'", "--hinge-maxeps", "0.0314"]);
}

#[test]
fn more_images_than_there_are_are_refused_with_their_number() {
    let folder = tempfile::tempdir().expect("a folder");
    for (flag, most) in [("--train-size", 6000), ("--test-size", 1000)] {
        let parts = [&*format!("{flag}: expected at most {most}, the "), " images of bundled digits; found 7000"];
        refused_in(folder.path(), &format!("train {flag} 7000"), &parts);
    }
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 0);
    done_in(
        folder.path(),
        "train --savepath run --quiet --width 0.125 --nb-iter 1 --train-size 50 --val-size 5 --test-size 5 --steps 1",
    );
    let parts = ["--test-size: expected at most 1000, the images of bundled digits, test; found 7000"];
    refused_in(folder.path(), "evaluate run/best.safetensors --test-size 7000", &parts);
}
