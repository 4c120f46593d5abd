import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mova.prompting.quotes import find_quotes, locate, mask_quotes, restore_quotes
from mova.text import clean_prompt

PIECES = st.sampled_from(
    [
        *"\"'“”„«»「」『』‘’<>[]",
        "<Q1>",
        "Q1",
        "says ",
        "word",
        " ",
        "\n",
        "\n\n",
        "你好",
        "🎈",
        "5",
        "&lt;",
        "it's",
    ]
)
TEXTS = st.one_of(st.text(max_size=50), st.lists(PIECES, max_size=16).map("".join))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('He says "hello" and "bye".', ["hello", "bye"]),
        ("“Curly”, „German“ and «French»", ["Curly", "German", "French"]),
        ("他说：「你好」，她说『再见』。", ["你好", "再见"]),
        ('他说："你好，世界！"然后笑了', ["你好，世界！"]),
        ("He said “she said ‘no’ to me” and left", ["she said ‘no’ to me"]),
        ("「a『b』c」", ["a『b』c"]),
        ('He says "she said "no" to me" and leaves', ['she said "no" to me']),
        ("The dogs' bowl, it's rock 'n' roll in the '90s, don't", []),
        ("She says, 'it's fine' and goes", ["it's fine"]),
        ('A 6" plate and a 5" spoon', []),
        ('She shouts "wait\nThen she runs', ["wait"]),
        ("”hej” säger han", ["hej"]),
        ('""', []),
        ("", []),
    ],
)
def test_quotes_are_found_and_apostrophes_are_not(text, words):
    assert [quote.text for quote in find_quotes(text)] == words


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_what_is_taken_out_comes_back_word_for_word_and_in_order(text):
    taken = mask_quotes(text)
    back = restore_quotes(taken.text, taken)
    position = 0
    for quote in taken.quotes:
        position = back.index(quote.raw, position) + len(quote.raw)


@pytest.mark.parametrize(
    "bent", ["<Q1>", '"<Q1>"', '"<Q1>."', "“<q1>”", "&lt;Q1&gt;", "< Q1 >", "[Q1]", "{{Q1}}", "(Q1)", "<Q1/>"]
)
def test_bent_placeholders_are_understood(bent):
    taken = mask_quotes('The man says "hello there!"')
    assert (
        restore_quotes(f"The man says, {bent} He smiles.", taken) == 'The man says, "hello there!" He smiles.'
    )


def test_a_placeholder_comes_back_once_and_unknown_ones_go():
    taken = mask_quotes('Say "one" then "two"')
    assert restore_quotes("<Q2> <Q1> <Q2> <Q7>", taken) == '"two" "one"  '


def test_a_user_who_types_a_placeholder_keeps_it():
    taken = mask_quotes('The box says <Q1> and he says "hi"')
    assert "<Q1>" in taken.text
    assert restore_quotes(taken.text, taken) == 'The box says <Q1> and he says "hi"'


def test_quotes_are_compared_as_the_text_encoder_reads_them():
    quotes = mask_quotes("他说：“你好，世界！”").quotes
    assert locate('The man says, "你好,世界!"', quotes) == [14]
    assert clean_prompt(quotes[0].raw) == '"你好,世界!"'


def test_order_is_seen():
    first, second = locate('"b" and "a"', mask_quotes('"a" then "b"').quotes)
    assert first > second
