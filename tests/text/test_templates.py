from corrclip_jax.text.templates import TEMPLATES, prompts


def test_there_are_80_different_templates_with_one_place_for_the_name():
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 80
    assert all(template.count("{}") == 1 for template in TEMPLATES)


def test_odd_templates_are_among_them():
    odd = (
        "itap of my {}.",
        "a {} in a video game.",
        "a origami {}.",
        "art of the {}.",
        "a photo of many {}.",
    )
    assert set(odd) < set(TEMPLATES)


def test_templates_are_sentences_without_stray_spaces():
    for template in TEMPLATES:
        assert template == " ".join(template.split())
        assert template.endswith(".")


def test_a_name_with_braces_is_taken_literally():
    assert prompts("{0} set")[-1] == "itap of my {0} set."
