"""How people type ideas of the world: templates, synonyms and fragments.

(a|b|) is a choice, {slot} is filled from the scene. The HELD_OUT templates are for measuring alone.
"""

from pocket.hand import listed

EXTRA_COLOURS = listed(
    "pink|black|white|grey|brown|turquoise|silver|golden|violet|beige|cyan|magenta|navy|crimson|maroon|"
    "teal|lilac|bronze"
)
THING_ADJECTIVES = listed(
    "big|small|little|tiny|large|shiny|round|heavy|huge|cute|smooth|pretty|simple|nice|old|new|bright|"
    "colourful|perfect|plain|single"
)
COMMON_STYLES = ("short", "curly", "long", "bob", "bun", "wavy", "pigtails")  # that people name
EXTRA_GARMENTS = ("dress", "jacket", "coat", "suit", "blouse", "vest", "top", "uniform")
ONE_NOTE_PROGRESSION = (
    "The key {notes} sinks and glows {light}, and a little note floats up from it.",
    "By itself the piano plays {notes}: the key goes down, lights up {light} and rises again.",
)
ONE_NOTE_AUDIO = (
    "The audio shows a toy piano playing the one note {notes} at {pace} pace, bright and tinkling.",
    "The audio shows one clear toy piano tone, {notes}, at {pace} pace, fading as its key rises.",
)
FRAMES = (
    "(a |)(video|clip|short video|film|movie|scene|animation|cartoon)( of|:) {idea}",
    "(a |)(video|clip|scene) (where|in which) {idea}",
    "(please |)(make|generate|create|give me|do)( a video of| a clip of|) {idea}",
    "(i want|i'd like|i would like|we want)( to see| a video of|) {idea}",
    "(can|could) you (make|show|do|generate)( a video of|) {idea}(?|)",
    "(show|show me|let me see|let us see) {idea}",
    "(idea|scene|prompt|video|shot|request): {idea}",
    "{idea}(,| -|) (please|with sound|with audio|no subtitles|without subtitles|thanks|simple|cartoon style)",
    "(just|only|simply|now|so,|ok,|hey,|hi,) {idea}",
)
FRAMES_HELD_OUT = (
    "(could i get|may i have) a (clip|video) of {idea}",
    "my idea: {idea}",
    "(please |)animate {idea}",
    "{idea} (as a video|in a video|thank you)",
)
CHINESE = {
    "ball": (
        "(一个|)({colour}色|{colour})(的|){material}球(落下|掉下来|下落|弹跳|掉在地上|落到地板上)",
        "(一个|)({colour}色|{colour})(的|)球(落下|掉下来|下落|弹跳|掉在地上|落到地板上)",
        "(一个|){material}球(落下|掉下来|弹跳|掉在地上)",
    ),
    "face": (
        "(一个|一位|){person}(说|说道|在说|说：|：|说着){quote}",
        "{quote}(，|){person}说",
    ),
    "piano": (
        "(玩具|)钢琴(弹|弹奏|演奏|：|弹出)( |){notes}",
        "(弹|弹奏)( |){notes}",
        "用(玩具|)钢琴弹( |){notes}",
    ),
}
CHINESE_WORDS = {
    **{"red": "红", "orange": "橙", "yellow": "黄", "green": "绿", "blue": "蓝", "purple": "紫"},
    **{"rubber": "橡胶", "wood": "木", "metal": "金属", "glass": "玻璃"},
    **{
        "man": "(男人|先生|爸爸|叔叔)",
        "woman": "(女人|女士|妈妈|阿姨)",
        "child": "(孩子|小孩|女孩|男孩|小朋友)",
    },
}
SAYINGS = listed(
    "hi|hey|hello there|good morning|good night|thank you|thanks|please|sorry|okay|yes please|no way|"
    "I love you|how are you|what is this|come here|look at me|see you|let's go|stop|wait|help|oh no|"
    "oh yes|well done|great job|happy birthday|welcome|good luck|I am hungry|I'm here|where are you|"
    "it works|one two three|abc|peekaboo|bonjour|hola|danke|ciao|merry christmas|time to sleep|"
    "surprise|cheese|pizza|Anna|Peter|Maria|my name is Tom|I like cats|we won|good job|never mind|"
    "maybe|the sun is out|dragons are real|buy milk|eat your soup|nice to meet you|congratulations"
)
SAYINGS_HELD_OUT = listed(
    "good evening|sweet dreams|hurry up|my dog ran off|guten Tag|Sophie|be careful|spaghetti|"
    "it is snowing|all aboard|what a day|umbrella|see you tomorrow|fantastic|I forgot my keys"
)
