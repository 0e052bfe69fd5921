"""Class names from files and from the command line, in the forms that people have them in."""

import pytest

from corrclip_jax.text.classes import parse_classes, read_classes

CAT_DOG = [["cat"], ["dog"]]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "# my classes\ncat  # furry\n\ndog\n"),
        ("a.txt", "0: cat\n1: dog\n"),
        ("a.txt", "1. cat\r\n2. dog\r\n"),
        ("a.txt", "1\tdog\n0\tcat\n"),
        ("a.txt", "0 cat\n1 dog\n"),
        ("a.txt", "cat=0\ndog=1\n"),
        ("a.txt", "cat 0\ndog 1\n"),
        ("a.txt", "0 -> cat\n1 -> dog\n"),
        ("a.txt", "- cat\n- dog\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\ncat:128,0,0::\ndog:0,0,0::\n"),
        ("a.csv", "cat\ndog\n"),
        ("a.csv", "id,name,red\n2,dog,3\n1,cat,4\n"),
        ("a.csv", "0,cat\n1,dog\n"),
        ("a.csv", "class,name\n1,dog\n0,cat\n"),
        ("a.csv", "train_id,name\n1,dog\n0,cat\n"),
        ("a.csv", "name,trainId\ndog,1\ncat,0\n"),
        ("a.csv", "name,label\ndog,2\ncat,1\n"),
        ("a.csv", "pixel,class,count\n1,dog,5203\n0,cat,391\n"),
        ("a.csv", ",name\n1.0,dog\n0.0,cat\n"),
        ("a.csv", "name;Train ID\ndog;1\ncat;0\n"),
        ("a.csv", "id,name,trainId\n33,dog,1\n7,cat,0\n"),
        ("a.csv", "id,name,trainId\n0,cat,255\n1,dog,255\n"),
        ("a.csv", "name,r,g,b\ncat,244,35,232\ndog,128,64,128\n"),
        ("a.csv", "name,isthing\ncat,1\ndog,0\n"),
        ("a.csv", "name,category\ncat,3\ndog,3\n"),
        (
            "objectInfo150.tsv",
            "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t7\t9\t1\tcat\n2\t0.1\t8\t6\t0\tdog\n",
        ),
        ("a.txt", "1 dog\n0 cat\n"),
        ("a.txt", "dog 1\ncat 0\n"),
        ("a.json", '[{"name": "dog", "trainId": 1}, {"name": "cat", "trainId": 0}]'),
        ("a.json", '[{"name": "dog", "value": "2"}, {"name": "cat", "value": "1"}]'),
        ("a.json", '[{"name": "dog", "pixel": 1}, {"name": "cat", "pixel": 0}]'),
        ("a.json", '[{"name": "cat", "id": 2978, "trainId": 0}, {"name": "dog", "id": 312, "trainId": 1}]'),
        ("a.json", '[{"name": "dog", "id": 8, "isthing": 0}, {"name": "cat", "id": 7, "isthing": 1}]'),
        ("a.json", '[{"name": "cat", "id": "kitty"}, {"name": "dog", "id": "hound"}]'),
        ("a.csv", "id;name;red\n0;cat;3\n1;dog;4\n"),
        ("a.tsv", "class\tcolour\ncat\t#fff\ndog\t#000\n"),
        ("a.json", '["cat", "dog"]'),
        ("a.txt", '["cat", "dog"]'),
        ("a.json", '{"id2label": {"1": "dog", "0": "cat"}}'),
        ("a.json", '{"cat": 0, "dog": 1}'),
        ("a.json", '{"label2id": {"cat": 0, "dog": 1}}'),
        ("a.json", '[{"name": "cat", "color": "#fff", "attributes": []}, {"name": "dog"}]'),
        ("a.json", '{"categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]}'),
        ("data.yaml", "train: images\nnames:\n  0: cat\n  1: dog\n"),
        ("a.yml", "- cat\n- dog\n"),
    ],
)
def test_class_lists_as_people_have_them(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_classes(tmp_path / name) == CAT_DOG


def test_a_class_list_of_windows_is_read(tmp_path):
    (tmp_path / "a.txt").write_bytes("cat\r\ndog\r\n".encode("utf-16"))
    assert read_classes(tmp_path / "a.txt") == CAT_DOG


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "cat\n1: dog\n", r"line 2, '1: dog', is no class name"),
        ("a.txt", "0: cat\n2: dog\n", r"line 2: the class 'dog' has the number 2, where 1 was expected"),
        ("a.txt", "cat\ndog\tred\n", r"line 2, .* holds a tab"),
        ("a.txt", "cat, dog, grass\n", r"line 1, .* is the only one and holds commas"),
        ("a.txt", "cat 128 0 0\ndog 0 0 0\n", r"line 1, .* holds numbers"),
        ("a.txt", "names:\n- cat\n", r"line 1, .* ends in a colon"),
        ("a.txt", '"cat",\n"dog"\n', r"line 1, .* stands in quotes"),
        ("a.txt", "| cat | 0 |\n| dog | 1 |\n", r"line 1, .* holds a vertical bar"),
        ("a.xml", "<name>cat</name>\n", r"line 1, .* holds a tag"),
        ("a.txt", "0\n1\n", r"line 1, '0', is no class name: it is a number"),
        ("a.pbtxt", "item {\n  id: 1\n}\n", r"line 1, 'item {', is no class name: it holds a bracket"),
        ("a.csv", "cat,1,2\ndog,3,4\n", r"line 1: which column holds the class names"),
        ("a.csv", "id,name\n0,cat\n1\n", r"line 3: there is no column 2"),
        ("a.csv", "id,name\nx,cat\n", r"line 2: the number of a class is 'x'"),
        (
            "a.csv",
            "label,description\n0,cat\n1,dog\n",
            r"a\.csv: the column 'label' holds numbers, no class names",
        ),
        ("a.csv", "class\n2\n0\n", r"the column 'class' holds numbers"),
        ("a.csv", "2\n0\n", r"line 1: which column holds the class names"),
        (
            "a.csv",
            "name,count\ncat,391\ndog,5203\n",
            r"line 2: .*the number 391, .*below 'count': correct them, or",
        ),
        ("a.csv", "name,trainId\ncat,0\ndog,255\n", r"line 3: .*the number 255, where 1 .*below 'trainId'"),
        (
            "a.csv",
            "id,name,trainId\n0,cat,1\n1,dog,0\n",
            r"'id' and 'trainId' number the classes in different orders",
        ),
        ("a.txt", "1 cat\n3 dog\n", r"line 2: .*number 3, where 2 was expected.*give the names as a list"),
        (
            "a.json",
            '[{"name": "cat", "trainId": 0}, {"name": "dog", "trainId": 9}]',
            r"entry 2: .*below 'trainId'",
        ),
        ("a.json", '[{"name": "cat", "id": 1}, {"name": "dog"}]', r"entry 2: the number of a class is None"),
        ("a.json", '[{"name": "cat", "id": -1}, {"name": "dog", "id": 5}]', r"entry 1: .*has the number -1"),
        ("a.json", '["cat", ', r"a\.json is no JSON: .*line 1"),
        ("a.json", '{"cat": "red"}', r"holds no list of class names"),
        ("a.json", "[1, 2]", r"entry 1: a class name must be text. Got 1"),
        ("a.yaml", "- person\n- no\n", r"entry 2: a class name must be text. Got False. Put it in quotes"),
        ("a.yaml", "a: [b\n", r"a\.yaml is no YAML: .*line 1"),
    ],
)
def test_what_is_no_class_name_is_never_taken_as_one(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_classes(tmp_path / name)


def test_names_that_end_in_numbers_stay_names(tmp_path):
    (tmp_path / "a.txt").write_text("stage 1\nstage 2\n747 jet\n")
    assert read_classes(tmp_path / "a.txt") == [["stage 1"], ["stage 2"], ["747 jet"]]
    for names in (["5 seats", "6 beds"], ["1 seat", "2 seat"], ["Boeing 747", "Airbus 320"], ["1 cat"]):
        (tmp_path / "a.txt").write_text("\n".join(names))
        assert read_classes(tmp_path / "a.txt") == [[name] for name in names]


def test_classes_on_the_command_line_in_other_forms():
    assert parse_classes("0: cat, 1: dog") == CAT_DOG
    assert parse_classes("1 dog, 0 cat") == CAT_DOG
    assert parse_classes("\u732b\u3001\u72ac\uff1b\u5b50\u72ac") == [["\u732b"], ["\u72ac", "\u5b50\u72ac"]]
    for text in ("['cat', 'dog']", '"cat", "dog"'):
        with pytest.raises(ValueError, match="without brackets and quotes"):
            parse_classes(text)
    with pytest.raises(ValueError, match=r"'classes\.txt' is no class name but a file"):
        parse_classes("classes.txt")


def test_a_missing_class_file_and_one_that_is_no_utf8_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file of class names at .*nowhere"):
        read_classes(tmp_path / "nowhere")
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt must be UTF-8 text"):
        read_classes(tmp_path / "latin.txt")
