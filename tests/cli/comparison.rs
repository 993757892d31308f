//! `maxmargin report` about evaluations: what stands beside the paper's figures, and how their plot is drawn.

use std::collections::BTreeSet;
use std::fs;

use maxmargin::hash::sha256;
use maxmargin::record::read_metrics;
use serde_json::{Value, json};

use crate::report::{evaluate, evaluate_others, evaluation, files, has, matches, page, plot, plots, runs};
use crate::{done_in, refused_in};

#[test]
fn an_evaluation_s_figures_stand_beside_the_paper_s_figures() {
    let folder = runs(&["run"]);
    evaluate(&folder.path().join("run"), "paper", &evaluation());
    let page = page(folder.path(), "run", "run/report.html");
    for part in ["91.23", "41.17", "55.55", "80.08", "2.26", "0.2847", "12,345", "17", "1,234,567", "7,654,321", "98.8"]
    {
        assert!(page.contains(&format!(">{part}<")) || page.contains(&format!(">{part} ")), "{part}");
    }
    has(
        &page,
        &[
            "run, paper",
            "measured on 12,345 images",
            "<th>0.35</th>",
            "LeNet5 of the test",
            "CPU of the test",
            &format!("<code>{:.16}</code>", sha256(&files()["best.safetensors"])),
            "<code>5aaeff8</code>",
            "<code>run/best.safetensors</code>",
            "PGD-7 linf",
            "<td class=\"words\">pgd-xent</td><td>5</td><td>840</td><td>190</td><td>420,000</td><td>410,000</td><td>12.5</td>",
            "<td>1.3821 <small>of 998 of – found</small></td><td>1.1043</td><td>1.3885</td><td>1.6017</td>",
            "Margins of 4 images by AN-PGD; red, below 0: the 1 misclassified.",
            // Wilson's intervals.
            "<td>91.23 <small>90.7–91.7</small></td>",
            "<td>2.26 <small>2.0–2.5</small></td>",
            // The paper's verified figures; the row of the model that was trained in the same way.
            "<td><b>98.95</b></td><td><b>94.1</b></td><td><b>92.9</b></td><td><b>97.9</b></td><td><b>96.0</b></td>\
             <td><b>92.59</b></td><td>–</td><td><b>85.2</b></td><td class=\"words\">verified</td>",
            "The accuracy of the published MMA-0.45 under AutoAttack is <b>91.40</b> % at eps 0.3",
            "the bundled digits are a part of MNIST",
        ],
    );
    assert_eq!(matches(&page), ["MMA-0.45"]);
    assert!(!page.contains("MMA-32") && !page.contains("class=\"warning\""));
}

#[test]
fn a_run_without_the_clean_loss_is_shown_as_omma() {
    let folder = runs(&["run"]);
    let toml = folder.path().join("run/config.toml");
    let text = fs::read_to_string(&toml).expect("settings");
    let changed = text.replace("clean_loss_coeff = 0.33333334", "clean_loss_coeff = 0.0");
    assert_ne!(changed, text);
    fs::write(&toml, changed).expect("settings");
    let mut found = evaluation();
    found["method"] = Value::Null;
    evaluate(&folder.path().join("run"), "paper", &found);
    let page = page(folder.path(), "run --unverified", "run/report.html");
    has(&page, &["<dd>OMMA, d_max 0.45</dd>", "<b>run</b></span> OMMA, d_max 0.45, digits, linf; "]);
    assert_eq!(matches(&page), ["OMMA-0.45"]);
}

#[test]
fn other_methods_are_shown_with_the_losses_that_they_have_and_the_paper_s_rows_of_them() {
    let folder = runs(&["mma"]);
    let short = "--quiet --width 0.125 --nb-iter 1 --steps 2 --train-size 100 --val-size 20 --test-size 10";
    for method in ["std", "pgd", "trades"] {
        done_in(folder.path(), &format!("train --savepath {method} --method {method} {short}"));
        let mut found = evaluation();
        (found["method"], found["d_max"]) = (Value::Null, Value::Null);
        evaluate(&folder.path().join(method), "paper", &found);
    }
    let alone = page(folder.path(), "pgd --unverified", "pgd/report.html");
    has(&alone, &["<b>pgd</b></span> PGD, eps 0.3, digits, linf"]);
    has(&alone, &["In PGD training the training images are the attacked ones.", "<dd>PGD, eps 0.3</dd>"]);
    assert_eq!(matches(&alone), ["PGD-0.3"]);
    assert!(!alone.contains("TRADES' divergence") && !alone.contains("reached d_max: they"));
    assert_eq!(plots(&alone), 3 + 2 + 2);
    let all = page(folder.path(), "mma std pgd trades --unverified", "mma/report.html");
    has(&all, &["<dd>STD</dd>", "TRADES' divergence", "reached d_max: they", "TRADES, eps 0.3"]);
    assert_eq!(matches(&all), ["TRADES", "STD", "PGD-0.3"]);
}

#[test]
fn each_data_set_and_norm_has_the_paper_s_rows_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, dataset, norm, row, unverified, distance) in [
        ("a", "cifar10", "linf", "paper, MMA-32</span></td><td><b>84.36</b></td><td><b>29.4</b></td>", "PGD-8", None),
        ("b", "cifar10", "l2", "paper, MMA-1.0</span></td><td><b>88.02</b></td><td>–</td>", "MMA-3.0<", Some("1.73")),
        ("c", "mnist", "l2", "No verified accuracy of the paper is known here", "MMA-4.0</span></td>", Some("3.61")),
    ] {
        let mut found = evaluation();
        (found["dataset"], found["norm"]) = (dataset.into(), norm.into());
        let at = folder.path().join(name);
        fs::create_dir(&at).expect("a folder");
        fs::write(at.join("evaluation.json"), found.to_string()).expect("a file");
        let shown = page(folder.path(), name, &format!("{name}/report.html"));
        has(&shown, &[row, "an evaluation of other weights"]);
        let model = format!("</svg>paper, {unverified}");
        assert!(!shown.contains(&model), "{unverified} is not verified");
        has(&page(folder.path(), &format!("{name} --unverified"), &format!("{name}/report.html")), &[&model]);
        assert!(!shown.contains("<h2>Training</h2>") && !shown.contains("<h2>Settings</h2>"));
        assert_eq!(shown.contains("Carlini and Wagner"), distance.is_some());
        let distance = distance.map(|value| format!("<td><b>{value}</b></td>"));
        has(&shown, &distance.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[test]
fn unverified_figures_are_grey_and_said_to_be_so_and_absent_unless_asked_for() {
    let folder = runs(&["run"]);
    evaluate(&folder.path().join("run"), "paper", &evaluation());
    let shown = page(folder.path(), "run", "run/report.html");
    for absent in ["PGD-0.3", "98.96", "class=\"unsure\"", "97.87", "96.01", "85.24"] {
        assert!(!shown.contains(absent), "{absent}");
    }
    let verified =
        "Its figures are verified (AutoAttack&#39;s table of results, the paper&#39;s review thread, means of";
    has(&shown, &[verified, "<code>--unverified</code> adds transcriptions that nobody could check"]);
    let shown = page(folder.path(), "run --unverified", "run/report.html");
    has(
        &shown,
        &[
            "paper, PGD-0.3</span></td><td><span class=\"unsure\">98.96</span></td>",
            "<td class=\"words\">unverified</td>",
            "<span class=\"unsure\">Grey</span> ones are unverified: transcriptions that nobody could check.",
            "paper, MMA-0.45</span></td><td><b>98.95</b></td>",
        ],
    );
    assert!(!shown.contains("85.24"), "no decimal that the source lacks");
}

#[test]
fn a_user_s_table_of_the_paper_replaces_the_program_s_and_its_mistakes_are_named() {
    let folder = runs(&["run"]);
    evaluate(&folder.path().join("run"), "paper", &evaluation());
    let own = "[[tables]]\ndataset = \"mnist\"\nnorm = \"linf\"\nfigures = \"accuracy\"\nsource = \"table 3\"\n\
               verified = true\ncolumns = [\"clean\", \"0.3\"]\nrows = [[\"MINE-<1>\", \"12.345\", \"-\"]]\n";
    let file = folder.path().join("own.toml");
    fs::write(&file, own).expect("a table");
    let shown = page(folder.path(), "run --paper-table own.toml", "run/report.html");
    has(&shown, &["paper, MINE-&lt;1&gt;</span></td><td><b>12.345</b></td>", "Its figures are verified (table 3)."]);
    assert!(!shown.contains("MMA-0.45"));
    fs::write(&file, own.replace("12.345", "12,345")).expect("a table");
    let line = "report run --paper-table own.toml";
    refused_in(folder.path(), line, &["error: own.toml: line 8: MINE-<1>, clean: expected a percentage", "\"12,345\""]);
    refused_in(folder.path(), "report run --paper-table none.toml", &["none.toml: cannot read"]);
    refused_in(folder.path(), "report run --paper-table own.toml --out own.toml", &["--out own.toml"]);
}

#[test]
fn an_evaluation_of_weights_that_the_run_no_longer_has_is_marked_and_not_compared() {
    let folder = runs(&["run"]);
    let run = folder.path().join("run");
    let mut old = evaluation();
    old["clean_accuracy"] = json!(12.34);
    evaluate_others(&run, "old", &old);
    let shown = page(folder.path(), "run", "run/report.html");
    has(&shown, &["Every evaluation is of weights that the runs no longer have: nothing is compared.", "12.34"]);
    evaluate(&run, "new", &evaluation());
    let shown = page(folder.path(), "run", "run/report.html");
    let now = sha256(&files()["best.safetensors"]);
    has(
        &shown,
        &[
            "run / evaluation-old: these figures are of weights that the run no longer has",
            &format!("begins with 0123456789ab, that of best.safetensors with {now:.12}"),
            "`maxmargin evaluate run` measures the present weights",
        ],
    );
    assert_eq!(shown.matches("class=\"warning\"").count(), 2, "above the chapters, and at the evaluation");
    let compared = shown.split("<h2>Accuracy under attack</h2>").nth(1).and_then(|rest| rest.split("<h2>").next());
    let compared = compared.expect("the comparison");
    assert!(compared.contains("run, new") && !compared.contains("run, old") && !compared.contains("12.34"));
    assert!(shown.contains("</svg>run, old</span></h3>"), "its figures stand in a section of their own");
}

#[test]
fn figures_of_other_images_than_the_published_ones_never_stand_beside_the_paper_s_without_a_word() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, provenance: &str| {
        let mut found = evaluation();
        (found["dataset"], found["norm"], found["provenance"]) = ("mnist".into(), "l2".into(), provenance.into());
        let at = folder.path().join(name);
        fs::create_dir(&at).expect("a folder");
        fs::write(at.join("evaluation.json"), found.to_string()).expect("a file");
    };
    write("fashion", "other");
    write("mnist", "published");
    let alone = page(folder.path(), "fashion --unverified", "fashion/report.html");
    has(
        &alone,
        &[
            "measured on 12,345 images; <b class=\"other\">images that are NOT the published ones</b>",
            "The paper's figures are left out",
            "The paper's distances are left out: images that are NOT the published ones.",
            "NOT the published files)",
        ],
    );
    assert!(!alone.contains("</svg>paper, ") && !alone.contains("Carlini and Wagner"));
    let both = page(folder.path(), "fashion mnist --unverified", "fashion/report.html");
    assert_eq!(both.matches("<b class=\"other\">images that are NOT the published ones</b>").count(), 1);
    has(&both, &["</svg>paper, MMA-2.0</span>", "the published files)"]);
}

#[test]
fn a_run_on_other_images_than_the_published_ones_is_said_to_be_one() {
    let folder = runs(&["run"]);
    let path = folder.path().join("run/metrics.jsonl");
    let other = |mut line: Value| {
        if line["kind"] == "result" {
            line["data_provenance"] = "other".into();
        }
        format!("{line}\n")
    };
    let lines: String = read_metrics(&path).expect("metrics").into_iter().map(other).collect();
    fs::write(&path, lines).expect("metrics");
    evaluate(&folder.path().join("run"), "paper", &evaluation());
    let shown = page(folder.path(), "run", "run/report.html");
    let words = "<b class=\"other\">trained on images that are NOT the published ones</b>";
    has(&shown, &[&format!("; {words}; best checkpoint"), &format!("measured on 12,345 images; {words}")]);
    assert!(!shown.contains("</svg>paper, "));
}

#[test]
fn every_run_has_a_colour_and_a_marker_of_its_own_in_the_keys_of_every_plot() {
    let names: Vec<String> = (0..10).map(|i| format!("r{i}")).collect();
    let folder = runs(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for name in &names {
        evaluate(&folder.path().join(name), "paper", &evaluation());
    }
    let page = page(folder.path(), &names.join(" "), "r0/report.html");
    let key = |of: &str, name: &str| {
        let end = of.find(&format!("</svg>{name}</span>")).unwrap_or_else(|| panic!("no key of {name}"));
        let from = of[..end].rfind("<svg class=\"look\"").expect("a look");
        of[from..end].to_owned()
    };
    for (label, name) in [("loss by step", "r{}"), ("accuracy by step", "r{}"), ("accuracy by eps", "r{}, paper")] {
        let keys: Vec<String> = (0..10).map(|i| key(plot(&page, label), &name.replace("{}", &i.to_string()))).collect();
        let without_colour =
            |key: &String| (0..10).fold(key.clone(), |key, i| key.replace(&format!("(--c{})", 4 + i), ""));
        let shapes: BTreeSet<String> = keys.iter().map(without_colour).collect();
        assert_eq!(shapes.len(), 10, "{label}: {keys:?}");
        for (i, key) in keys.iter().enumerate() {
            assert!(key.contains(&format!("var(--c{})", 4 + i)), "{label}: {key}");
        }
    }
    has(&page, &["--c13:"]);
    has(plot(&page, "accuracy by eps"), &["</svg>paper, MMA-0.45</span>", "</svg>paper, TRADES</span>"]);
    has(plot(&page, "loss by step"), &["</svg>attacked batch</span>", "</svg>clean images</span>"]);
    has(plot(&page, "mean margin by step"), &["</svg>d_max 0.45</span>"]);
}

#[test]
fn no_line_joins_the_eps_of_evaluations_and_every_point_has_an_interval() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("a");
    fs::create_dir(&at).expect("a folder");
    let mut found = evaluation();
    found["minimum_norm"] = json!([]);
    fs::write(at.join("evaluation.json"), found.to_string()).expect("a file");
    let shown = page(folder.path(), "a", "a/report.html");
    let drawn = plot(&shown, "accuracy by eps").split("<figcaption>").next().expect("a plot");
    let lines = drawn.split("<polyline").skip(1).filter_map(|rest| rest.split("/>").next());
    let lines: Vec<&str> = lines.filter(|line| line.contains("--c4)")).collect();
    assert_eq!(lines.len(), 3 * 3, "of each of three points: a bar and its two ends");
    for line in lines {
        let points = line.split("points=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("points");
        let ends: Vec<Vec<&str>> = points.split_whitespace().map(|point| point.split(',').collect()).collect();
        assert!(ends[0][0] == ends[1][0] || ends[0][1] == ends[1][1], "upright, or an end: {points}");
    }
    has(&shown, &["Points are measured, and no line joins them", "Wilson's 95 % confidence intervals"]);
}

#[test]
fn distances_are_a_curve_of_accuracy_over_eps() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path().join("a");
    fs::create_dir(&at).expect("a folder");
    let mut found = evaluation();
    (found["norm"], found["margins"]) = ("l2".into(), Value::Null);
    found["minimum_norm"][0]["attacked"] = json!(1000);
    fs::write(at.join("evaluation.json"), found.to_string()).expect("a file");
    let without = page(folder.path(), "a", "a/report.html");
    assert!(!without.contains("distances by ddn"), "the distances of the images are not known");
    has(&without, &["<td>1.3821 <small>of 998 of 1,000 found</small></td>"]);
    let mut pages = Vec::new();
    for text in [
        "index,label,clean_prediction,margin,distance,broken_eps,broken_by\n\
         0,7,7,0.4,0.5,,\n1,2,2,,,,\n2,1,8,0,0,0,clean\n3,0,0,0.4,1.5,1,pgd\n",
        "index,label,clean_prediction,margin,broken_eps,broken_by\n0,7,7,0.5,,\n1,2,2,,,\n2,1,8,,0,clean\n3,0,0,1.5,1,pgd\n",
    ] {
        fs::write(at.join("images.csv"), text).expect("a file");
        pages.push(page(folder.path(), "a", "a/report.html"));
    }
    has(plot(&pages[0], "accuracy by eps"), &["a: distances by ddn", "robust accuracy is at most as large"]);
    assert!(pages[0] == pages[1], "former files have the distances in place of margins");
    found["margins"] = json!([0.4, 0.4, 0.0, 0.4]);
    fs::write(at.join("evaluation.json"), found.to_string()).expect("a file");
    let margins = page(folder.path(), "a", "a/report.html");
    assert!(!margins.contains("distances by ddn"), "former files have the margins alone if both were measured");
}
