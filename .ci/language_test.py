"""Tests of .ci/language. `.ci/language --self-test` runs them."""

import contextlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import unittest
from importlib.machinery import SourceFileLoader
from pathlib import Path

sys.dont_write_bytecode = True

from language_markdown import blocks, sentences
from language_rust import doc_comments, measure_crates, split_rust, split_tests, tuple_parameters

loader = SourceFileLoader("language", str(Path(__file__).with_name("language")))
language = importlib.util.module_from_spec(importlib.util.spec_from_loader("language", loader))
loader.exec_module(language)


def found(markdown):
    lines = enumerate(markdown.splitlines(), 1)
    return [sentence for block in blocks(lines) for sentence in sentences("a.md", block)]


def texts(markdown):
    return [sentence.text for sentence in found(markdown)]


def counts(markdown):
    return [(sentence.words, sentence.commas) for sentence in found(markdown)]


def code_of(rust):
    return split_rust(rust)[0]


class Sentences(unittest.TestCase):
    def test_full_stops_question_marks_and_exclamation_marks_end_a_sentence(self):
        self.assertEqual(texts("It stops. Why? Stop! Now."), ["It stops.", "Why?", "Stop!", "Now."])

    def test_a_sentence_goes_over_lines_and_has_the_line_of_its_first_word(self):
        places = [(s.line, s.text) for s in found("One.\n\nIt goes\non. Then\nit ends.\n")]
        self.assertEqual(places, [(1, "One."), (3, "It goes on."), (4, "Then it ends.")])

    def test_a_name_in_lower_case_opens_a_sentence(self):
        self.assertEqual(texts("It waits. icestore writes."), ["It waits.", "icestore writes."])
        self.assertEqual(texts("**Not so.** icestore waits."), ["**Not so.**", "icestore waits."])

    def test_abbreviations_do_not_end_a_sentence(self):
        for text in [
            "Use a queue, e.g. Kafka here.",
            "Use a queue (e.g. Kafka) here.",
            "The sink, i.e. BigQuery, is slow.",
            "Rows, objects, etc. are written.",
            "See no. 5 of the list.",
        ]:
            self.assertEqual(texts(text), [text])
        self.assertEqual(len(texts("Rows, objects, etc. They are written.")), 2)
        self.assertEqual(len(texts("The answer is no. Then it ends.")), 2)

    def test_numbers_versions_and_ellipses_do_not_end_a_sentence(self):
        for text in ["It takes 1.5 s of CPU.", "MQTT 3.1.1 has none.", "It reads a ... and b."]:
            self.assertEqual(texts(text), [text])
        self.assertEqual(len(texts("It takes 1.5. Then 2 follow.")), 2)

    def test_quotes_within_a_sentence_do_not_end_it(self):
        inside = 'The log says "it\'s \'gone.\'" and goes on.'
        self.assertEqual(texts(inside), [inside])
        self.assertEqual(texts("It asks (why?) and waits."), ["It asks (why?) and waits."])
        closed = 'The log says "it\'s \'gone.\'" Then it ends.'
        self.assertEqual(texts(closed), ['The log says "it\'s \'gone.\'"', "Then it ends."])
        self.assertEqual(texts("(It ends. It stops.) So."), ["(It ends.", "It stops.)", "So."])

    def test_words_are_counted_and_signs_are_not(self):
        self.assertEqual(counts("At-least-once -> 2 copies + more."), [(4, 0)])
        self.assertEqual(counts("It stops—then it ends."), [(5, 0)])

    def test_commas_are_counted_but_not_those_of_numbers(self):
        self.assertEqual(counts("Of 1,000 rows, ten, or so, remain."), [(7, 3)])

    def test_a_code_span_is_one_word_without_commas_and_full_stops(self):
        self.assertEqual(counts("Call `f(a, b). Then c` now."), [(3, 0)])
        self.assertEqual(counts("Write ``a ` b, c`` now."), [(3, 0)])
        self.assertEqual(texts("It ends. `f` starts."), ["It ends.", "`f` starts."])
        self.assertEqual(texts("`a`, `b`"), [])

    def test_the_text_of_a_link_counts_and_its_target_does_not(self):
        text = 'See [the docs, part 2](a/b,c.md "A title, too") and [d][e, f].'
        self.assertEqual([(s.text, s.words, s.commas) for s in found(text)], [
            ("See [the docs, part 2] and [d].", 7, 1),
        ])
        urls = "See <https://a.b/c,d>, or https://e.f/g,h. Then go."
        self.assertEqual(counts(urls), [(4, 1), (2, 0)])
        self.assertEqual(texts("[a]: https://b.c/d\n\n![A picture, big](a.png)"), [])
        self.assertEqual(counts("One<br> two <!-- not, this --> three."), [(3, 0)])


class Blocks(unittest.TestCase):
    def test_headings_rules_and_html_comments_are_left_out(self):
        self.assertEqual(texts("# One\nTwo\n\nThree\n=====\nFour\n***\nFive\n<!-- a\nb -->\nSix"), [
            "Two", "Four", "Five", "Six",
        ])

    def test_code_blocks_are_left_out(self):
        self.assertEqual(texts("One\n```sh\ntwo\n\n# three\n```\nFour\n~~~\n```\n~~~\nFive"), [
            "One", "Four", "Five",
        ])
        self.assertEqual(texts("One\n\n    two\n    three\n\n    four\n\nFive"), ["One", "Five"])
        self.assertEqual(texts("- One\n  ```\n  two\n  ```\n- Three"), ["One", "Three"])
        self.assertEqual(texts("- ```\n  one\n  ```\n- Two"), ["Two"])

    def test_tables_are_left_out(self):
        self.assertEqual(texts("One\n\n| a | b |\n|---|:-:|\n| c. | d, |\n\nTwo"), ["One", "Two"])
        self.assertEqual(texts("One\n| a |\n|---|\n| b |\n\nTwo"), ["One", "Two"])
        self.assertEqual(texts("One\na | b\n--|--\nc | d\n\nTwo"), ["One", "Two"])

    def test_each_list_item_is_a_block(self):
        steps = "Steps:\n- one\n  goes on\n- [x] two\n\n  more\n1. three\n2. four"
        self.assertEqual(texts(steps), ["Steps:", "one goes on", "two", "more", "three", "four"])
        self.assertEqual(texts("- one\n\n      code\n\n  - two\n\n    more\n\nThree"), [
            "one", "two", "more", "Three",
        ])

    def test_a_wrapped_number_or_hyphen_is_no_list_item(self):
        self.assertEqual(texts("It was\n2026. It\nended."), ["It was 2026.", "It ended."])
        self.assertEqual(texts("It is\n-5 or less."), ["It is -5 or less."])

    def test_quotes_are_read_without_their_signs(self):
        self.assertEqual(texts("One\n> two\n> three\n\n> - four\nFive"), [
            "One", "two three", "four", "Five",
        ])


class Rust(unittest.TestCase):
    def test_doc_comments_are_blocks_of_one_kind(self):
        rust = (
            "//! One.\n//! Two.\n/// Three.\nfn f() {} // no\n//// no\n"
            "/// Four.\n#[a]\n/// Five.\n"
        )
        comments = list(doc_comments(split_rust(rust)[1]))
        self.assertEqual(comments, [
            [(1, "One."), (2, "Two.")], [(3, "Three.")], [(6, "Four.")], [(8, "Five.")],
        ])

    def test_strings_are_no_comments_and_comments_no_strings(self):
        rust = (
            'let a = "\n/// no \\" // no\n"; let b = r#"\n"\n/// no\n"#; let c = br"\\";\n'
            "let d = '\"'; let e = b'\\''; let f = '\\u{22}'|'\"';"
            " fn g<'a>(x: &'a str) {} // it's\n"
            '/* " /* nested */ \n/// no */\n/// Yes.\nstruct S;\n'
        )
        code, docs = split_rust(rust)
        self.assertEqual(docs, [(10, "///", "Yes.")])
        self.assertEqual(code.count("\n"), rust.count("\n"))
        self.assertIn("fn g<'a>(x: &'a str) {}", code)
        self.assertTrue(code.endswith("\nstruct S;\n"))
        self.assertNotIn("no", code)

    def test_tests_are_told_from_production_code(self):
        production, tests, modules = split_tests(code_of(
            "fn a() {}\n#[cfg(test)]\n#[b]\nfn c(x: [u8; 2]) { if y { z } }\n"
            "#[cfg(test)]\nmod d;\n#[cfg(all(test, unix))]\nmod e { #[cfg(test)] fn f() { '}' } }\n"
            "#[cfg(not(test))]\nfn g() {}\n"
        ))
        self.assertEqual(production.split(), "fn a() {} #[cfg(not(test))] fn g() {}".split())
        self.assertIn("{ if y { z } }", tests)
        self.assertIn("mod e", tests)
        self.assertEqual(modules, ["d"])

    def test_parameters_that_are_tuples_are_counted(self):
        for count, signature in [
            (1, "fn f(a: (A, B))"),
            (2, "fn f<T: Fn(A, B) -> C>((a, b): (A, B), &self, c: &'a mut (D, E))"),
            (1, "fn f(\n    s::P(x): Map<A, (B, C)>,\n    y: ((A, B), C),\n) -> (D, E)"),
            (1, "fn f(s::P(x): (A, B))"),
            (0, "fn f(a: (), b: &(dyn F + Send), c: [(A, B); 2], d: impl Fn((A, B)), e: (A))"),
            (0, "let f: fn((A, B)) = |(a, b): (A, B)| a"),
        ]:
            self.assertEqual(list(tuple_parameters(signature)), ["f"] * count, signature)

    def test_crates_are_counted(self):
        files = {
            "Cargo.toml": '[workspace]\nmembers = ["a"]\n',
            "a/Cargo.toml": '[package]\nversion = "1"\nname = "first"\n',
            "a/src/lib.rs": "struct S;\n\n// no\n/* no */\n#[cfg(test)]\nmod probe;\n",
            "a/src/b.rs": (
                "pub enum S {\n    A,\n}\ntrait T {}\n#[cfg(test)]\nmod tests {\n    struct T;\n}\n"
            ),
            "a/src/probe.rs": "struct S;\n",
            "a/src/probe/c.rs": "struct S;\n",
            "a/tests/d.rs": 'struct S;\nfn f(a: (A, B)) {}\n"\na\n\n";\n',
            "a/benches/e.rs": "struct S;\nfn f(a: (A, B)) {}\n",
            "c/Cargo.toml": '[package]\nname = "second"\n',
            "c/src/lib.rs": "struct S;\nfn f(a: (A, B)) {}\n",
        }
        codes = {file: code_of(text) for file, text in files.items() if file.endswith(".rs")}
        crates = measure_crates(files, codes)
        self.assertEqual(list(crates), ["first", "second"])
        self.assertEqual(crates["first"].types, {
            "S": ["a/src/lib.rs", "a/src/b.rs"], "T": ["a/src/b.rs"],
        })
        self.assertEqual(crates["first"].lines, {"production": 5, "test": 2 + 4 + 1 + 1 + 5})
        self.assertEqual(crates["first"].tuples, {"production": [], "test": ["a/tests/d.rs: f"]})
        self.assertEqual(crates["second"].tuples, {"production": ["c/src/lib.rs: f"], "test": []})


def value(key, files):
    figure = next(figure for figure in language.FIGURES if figure.key == key)
    return figure.value(language.measure(files))


class Figures(unittest.TestCase):
    def test_openings_are_a_share_of_doc_comments(self):
        for opening in "What Whether How Where Whoever Who That Which **What**".split():
            rust = f"/// {opening} is it?\n/// Who?\nfn a();\n/// Whatever. What?\nfn b();\n"
            self.assertEqual(value("doc_openings", {"a.rs": rust}), 50, opening)
        others = "/// Returns what is there.\nfn a();\n/// `What` it is.\nfn b();\n// What is it?\n"
        self.assertEqual(value("doc_openings", {"a.rs": others}), 0)
        after_heading = "/// # What\n///\n/// Where it is.\nfn a() {}\n"
        self.assertEqual(value("doc_openings", {"a.rs": after_heading}), 100)

    def test_a_sentence_of_36_words_is_long(self):
        text = f"{'word ' * 35}end.\n\n{'word ' * 34}end.\n"
        self.assertEqual(value("markdown_long_sentences", {"a.md": text}), 50)
        self.assertEqual(value("markdown_long_sentences", {"a.rs": f"/// {'word ' * 40}"}), 0)

    def test_commas_and_words_are_those_of_the_right_files(self):
        files = {"a.md": "One, two, three. Four.", "b.rs": "/// One.\n/// Two, three.\nfn f() {}\n"}
        self.assertEqual(value("markdown_commas", files), 1)
        self.assertEqual(value("doc_commas", files), 0.5)
        self.assertEqual(value("markdown_words_p90", files), 3)
        self.assertEqual(value("doc_words_p90", files), 2)

    def test_the_median_and_the_90th_percentile_are_numbers_of_words(self):
        text = "\n\n".join("word " * count for count in range(1, 11))
        self.assertEqual(value("markdown_words_median", {"a.md": text}), 5)
        self.assertEqual(value("markdown_words_p90", {"a.md": text}), 9)

    def test_an_empty_repository_has_figures(self):
        self.assertEqual({figure.value(language.measure({})) for figure in language.FIGURES}, {0})


LONG = f"It is long,{' so' * 40} long.\n"


class Limits(unittest.TestCase):
    def setUp(self):
        self.long = language.measure({"a.md": LONG + "\n\nThird." * 2})
        self.commas = language.measure({"a.md": "One, two, three.\n\nFour, five, six. Seven.\n"})
        self.short = language.measure({"a.md": "It is short.\n"})

    def test_set_lowers_limits_and_never_raises_them(self):
        limits = language.lowered({}, self.long)
        self.assertEqual(limits["markdown_long_sentences"], 33.34)
        self.assertEqual(language.lowered({}, self.commas)["markdown_commas"], 1.34)
        self.assertEqual(language.exceeded(limits, self.long), [])
        lower = language.lowered(limits, self.short)
        self.assertEqual(lower["markdown_long_sentences"], 0)
        self.assertEqual(language.lowered(lower, self.long), lower)

    def test_limits_of_commas_and_words_stay_at_their_targets(self):
        limits = language.lowered({}, self.short)
        self.assertEqual((limits["markdown_commas"], limits["doc_commas"]), (1, 1))
        self.assertEqual((limits["markdown_words_median"], limits["markdown_words_p90"]), (12, 25))
        self.assertEqual(language.lowered({"doc_words_p90": 20}, self.short)["doc_words_p90"], 20)

    def test_each_figure_fails_above_its_limit_alone(self):
        sample = language.measure({"a.md": LONG, "a.rs": f"/// What {LONG}fn f() {{}}\n"})
        limits = {figure.key: figure.value(sample) for figure in language.FIGURES}
        self.assertEqual(language.exceeded(limits, sample), [])
        for figure in language.FIGURES:
            below = limits | {figure.key: limits[figure.key] - 0.01}
            self.assertEqual(language.exceeded(below, sample), [figure])
            self.assertEqual(len(figure.places(sample)), 1 if "commas" not in figure.key else 0)

    def test_the_file_of_limits_is_read_as_it_was_written(self):
        limits = language.lowered({}, self.long)
        text = language.write_limits(limits)
        self.assertEqual(language.read_limits(text), limits)
        self.assertIn("# Markdown sentences over 35 words, in percent. Target: at most 3.\n", text)

    def test_a_line_that_is_no_limit_is_an_error(self):
        for line in ["doc_comma = 1", "doc_commas 1", "doc_commas = -1", "doc_commas = 1\n" * 2]:
            with self.assertRaises(language.Unusable, msg=line):
                language.read_limits(line)


class Runs(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        (self.root / ".ci").mkdir()
        (self.root / "docs").mkdir()
        subprocess.run(["git", "init", "--quiet", folder.name], check=True)
        self.write("docs/a.md", "It is short.\n")
        self.write("b.md", "It is short, too.\n")

    def write(self, file, text):
        (self.root / file).write_text(text, encoding="utf-8")
        subprocess.run(["git", "-C", str(self.root), "add", file], check=True)

    def run_it(self, *arguments):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = language.run(self.root, arguments)
        return code, output.getvalue()

    def test_a_figure_above_its_limit_fails_with_its_ten_worst_places(self):
        self.assertEqual(self.run_it("--set")[0], 0)
        self.assertEqual(self.run_it()[0], 0)
        (self.root / ".gitignore").write_text("docs/ignored.md\n", encoding="utf-8")
        (self.root / "docs/ignored.md").write_text(LONG, encoding="utf-8")
        self.assertEqual(self.run_it()[0], 0)
        (self.root / "docs/new.md").write_text(LONG, encoding="utf-8")
        self.assertEqual(self.run_it()[0], 1)
        (self.root / "docs/new.md").unlink()

        self.write("docs/a.md", "One.\n\n" + LONG + "\n" + f"{'word ' * 36}\n\n" * 10)

        code, output = self.run_it()
        self.assertEqual(code, 1)
        self.assertIn("FAILED markdown_long_sentences: 84.6154 is above the limit of 0\n", output)
        worst = output.split("Markdown sentences over 35 words, in percent, the worst:\n")[1]
        places = worst.split("\n\n")[0].splitlines()
        self.assertEqual(len(places), 10)
        self.assertTrue(places[0].startswith("  docs/a.md:3: It is long, so so"), places[0])

        code, output = self.run_it("--all")
        self.assertEqual(code, 1)
        self.assertEqual(output.count("  docs/a.md:"), 11 * 2)

        self.assertEqual(self.run_it("--set")[0], 1)
        limits = (self.root / language.LIMITS).read_text(encoding="utf-8")
        self.assertIn("\nmarkdown_long_sentences = 0\n", limits)

    def test_some_paths_are_measured_without_limits(self):
        self.write("docs/a.md", LONG)
        self.write("b.md", LONG)
        code, output = self.run_it("--all", str(self.root / "docs"))
        self.assertEqual(code, 0)
        self.assertIn("docs/a.md:1: It is long", output)
        self.assertNotIn("b.md", output)
        with self.assertRaises(language.Unusable):
            self.run_it(str(self.root / "doc"))

    def test_a_missing_limit_and_a_missing_repository_are_errors(self):
        with self.assertRaisesRegex(language.Unusable, "has no doc_openings, "):
            self.run_it()
        with tempfile.TemporaryDirectory() as folder, self.assertRaises(language.Unusable):
            language.run(Path(folder), [])


if __name__ == "__main__":
    unittest.main()
