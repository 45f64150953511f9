"""Tests of .ci/circles. `.ci/circles --self-test` runs them."""

import contextlib
import importlib.util
import io
import sys
import unittest
from importlib.machinery import SourceFileLoader
from pathlib import Path

sys.dont_write_bytecode = True

loader = SourceFileLoader("circles", str(Path(__file__).with_name("circles")))
circles = importlib.util.module_from_spec(importlib.util.spec_from_loader("circles", loader))
loader.exec_module(circles)


def crate(**files):
    """Returns the files of a crate. `a__b` stands for src/a/b.rs, and lib needs no `mod` lines."""
    names = [name for name in files if name != "lib"]
    tops = "".join(f"mod {name};\n" for name in names if "__" not in name)
    texts = {f"src/{name.replace('__', '/')}.rs": text for name, text in files.items()}
    return {**texts, "src/lib.rs": tops + files.get("lib", "")}


def edges(**files):
    """Returns the imports between the files of a crate, without src/ and .rs."""
    found = circles.imports(circles.load(crate(**files), "src/lib.rs"))
    return sorted((edge.file[4:-3], edge.target[4:-3]) for edge in found)


class Imports(unittest.TestCase):
    def test_paths_of_use_lead_to_files(self):
        for use in ["use crate::b::B;", "use super::b::B;", "pub(crate) use crate::b::{self, B};"]:
            self.assertEqual(edges(a=use, b="pub struct B;"), [("a", "b")], use)

    def test_nested_braces_and_renames_are_read(self):
        use = "use super::{\n    b::{B as C, x::{self, Y}},\n    c as other,\n};"
        found = edges(a=use, b="mod x; pub struct B;", b__x="pub struct Y;", c="")
        self.assertEqual(found, [("a", "b"), ("a", "b/x"), ("a", "c")])

    def test_paths_in_the_code_lead_to_files(self):
        for code in [
            "fn f() { crate::b::g(); }",
            "fn f() -> super::b::B { todo() }",
            "macro_rules! m { () => { $crate::b::g() }; }",
        ]:
            self.assertEqual(edges(a=code, b="pub fn g() {}"), [("a", "b")], code)

    def test_a_path_may_begin_with_a_module_that_a_use_brought_in(self):
        found = edges(a="use crate::b;\nfn f() { b::x::g() }", b="mod x;", b__x="pub fn g() {}")
        self.assertEqual(found, [("a", "b"), ("a", "b/x")])

    def test_self_leads_to_the_modules_of_the_file(self):
        found = edges(a="mod x; mod y;", a__x="use super::y::Y;", a__y="use self::z; mod z {}")
        self.assertEqual(found, [("a/x", "a/y")])

    def test_an_import_through_another_module_leads_to_the_file_of_the_item(self):
        lib = "pub(crate) use b::B;"
        self.assertEqual(edges(lib=lib, a="use crate::B;", b="pub struct B;"), [("a", "b")])
        through = edges(a="use crate::b::C;", b="pub use crate::c::C;", c="pub struct C;")
        self.assertEqual(through, [("a", "c"), ("b", "c")])
        star = edges(a="use crate::b::C;", b="pub use crate::c::*;", c="pub struct C;")
        self.assertEqual(star, [("a", "c"), ("b", "c")])

    def test_other_crates_and_names_of_the_file_are_no_imports(self):
        code = "use b_crate::b::B;\nuse std::b;\nenum E { B }\nfn f() { E::B; Self::b(); g::<u8>() }"
        self.assertEqual(edges(a=code, b=""), [])

    def test_comments_and_texts_are_no_imports(self):
        code = '// use crate::b::B;\n/// See [crate::b::B].\nconst S: &str = "crate::b::B";'
        self.assertEqual(edges(a=code, b=""), [])

    def test_tests_are_left_out(self):
        code = "#[cfg(test)]\nmod tests { use crate::b::B; }\n#[cfg(test)]\nmod other;"
        self.assertEqual(edges(a=code, a__other="use crate::b::B;", b=""), [])

    def test_inline_modules_belong_to_their_file(self):
        code = "mod inner { use super::super::b::B; mod deep { use crate::c::C; } }"
        self.assertEqual(edges(a=code, b="", c=""), [("a", "b"), ("a", "c")])

    def test_a_file_and_its_own_modules_are_left_out(self):
        found = edges(a="mod x; use x::X;", a__x="use super::A; use crate::a::A;")
        self.assertEqual(found, [])

    def test_files_named_mod_are_found(self):
        files = {"src/lib.rs": "mod a; mod b;", "src/a/mod.rs": "mod x;", "src/b.rs": ""}
        files["src/a/x.rs"] = "use crate::b::B;"
        found = circles.imports(circles.load(files, "src/lib.rs"))
        self.assertEqual([(e.file, e.target) for e in found], [("src/a/x.rs", "src/b.rs")])


class Circles(unittest.TestCase):
    def found(self, **files):
        return circles.circles(circles.imports(circles.load(crate(**files), "src/lib.rs")))

    def test_files_that_reach_each_other_are_a_circle(self):
        a, b, c = "use crate::b::B;", "use crate::c::C;", "use crate::a::A;"
        self.assertEqual(self.found(a=a, b=b, c=""), [])
        self.assertEqual(self.found(a=a, b=b, c=c, d=a), [["src/a.rs", "src/b.rs", "src/c.rs"]])

    def test_circles_are_separate_and_the_largest_comes_first(self):
        found = self.found(
            a="use crate::b::B;", b="use crate::a::A;",
            c="use crate::d::D;", d="use crate::e::E;", e="use crate::c::C; use crate::a::A;",
        )
        self.assertEqual([len(circle) for circle in found], [3, 2])

    def test_a_circle_through_a_file_and_its_own_module_is_none(self):
        self.assertEqual(self.found(a="mod x;", a__x="use crate::b::B;", b="use crate::a::A;"), [])

    def test_a_circle_through_an_import_of_the_root_is_found(self):
        found = self.found(lib="pub use b::B;", a="use crate::B;", b="use crate::a::A;")
        self.assertEqual(found, [["src/a.rs", "src/b.rs"]])


class Script(unittest.TestCase):
    def run_on(self, files):
        package = {"x/Cargo.toml": '[package]\nname = "x"\n'}
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = circles.run({**package, **{f"x/{name}": text for name, text in files.items()}})
        return code, output.getvalue()

    def test_a_circle_fails_and_is_listed_with_its_imports(self):
        code, text = self.run_on(crate(a="use crate::b::B;", b="use crate::a::A;", c=""))
        self.assertEqual(code, 1)
        self.assertIn("A circle of 2 files below x/src/lib.rs:", text)
        self.assertIn("  x/src/a.rs imports x/src/b.rs: crate::b::B\n", text)
        self.assertTrue(text.endswith("circles of imports: 1\n"))

    def test_no_circle_is_no_failure(self):
        code, text = self.run_on(crate(a="use crate::b::B;", b=""))
        self.assertEqual((code, text), (0, "circles of imports: 0\n"))

    def test_every_root_of_a_package_is_read_and_its_tests_are_not(self):
        circle = crate(a="use crate::b::B;", b="use crate::a::A;")
        for root in ["main.rs", "bin/tool.rs", "bin/tool/main.rs"]:
            folder = f"src/{root}".rpartition("/")[0]
            files = {f"{folder}/{name[4:]}": text for name, text in circle.items()}
            files[f"src/{root}"] = files.pop(f"{folder}/lib.rs")
            self.assertEqual(self.run_on(files)[0], 1, root)
        tests = {f"tests/{name[4:]}": text for name, text in circle.items()}
        self.assertEqual(self.run_on({"src/lib.rs": "", **tests})[0], 0)

    def test_no_crate_or_no_file_is_a_failure(self):
        for files in [{}, {"x/src/lib.rs": ""}, {"x/Cargo.toml": '[package]\nname = "x"\n'}]:
            with self.assertRaises(circles.Unusable):
                circles.run(files)


if __name__ == "__main__":
    unittest.main()
