"""Words of ideas: how they are framed, what is said in them, and what the world has not.

(a|b|) is a choice, {slot} is filled from the scene. The HELD_OUT templates are for measuring alone.
"""

from recipes.pocket.enhancer.hand import listed

EXTRA_COLOURS = listed(
    "pink|black|white|grey|brown|turquoise|silver|golden|violet|beige|cyan|magenta|navy|crimson|maroon|"
    "teal|lilac|bronze|gray|gold|coral|rose|ruby|salmon|tan|charcoal|mint|peach|cream|lavender|copper|"
    "amber|aquamarine|auburn|azure|cobalt|cherry|chestnut|emerald|fuchsia|ginger|indigo|ivory|jade|lemon|"
    "mauve|mahogany|ochre|olive|periwinkle|plum|raspberry|russet|rust|saffron|sapphire|tangerine|taupe|"
    "ultramarine|vermilion|apricot|avocado|blueberry|caramel|cinnamon|claret|cocoa|cranberry|ebony|fawn|"
    "flamingo|grape|honey|mango|melon|moss|orchid|papaya|pearl|petrol|pistachio|tomato|umber|"
    "wheat|wine|topaz|garnet|cerise|puce|ecru|buff|carmine|celadon"
)
EXTRA_COLOURS_HELD_OUT = ("scarlet", "khaki", "mustard", "burgundy", "lime", "sepia")
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
    "{idea} (as a clip|as an animation|in a short clip|for me|cheers|if you can)",
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

# What the world has not.
STUFFS = listed(
    "plastic|leather|stone|paper|cotton|clay|wool|ice|foam|cardboard|concrete|silk|chocolate|diamond|"
    "ceramic|porcelain|jelly|lava|snow|water|velvet|fire|brick|sand|rope|cheese|bread"
)
STUFFS_HELD_OUT = ("bamboo", "granite", "wax", "felt", "plasma")
LOOKS = listed(
    "burning|frozen|fluffy|spotted|broken|flying|invisible|furry|square|flat|rusty|checkered|melting|"
    "glowing|hairy|spiky|hollow|dancing|talking|wet|dirty|exploding|inflatable|haunted"
)
LOOKS_HELD_OUT = ("feathery", "cracked", "mossy", "floating", "tiger-striped")
NOUNS = listed(
    "dragon|cat|dog|horse|bird|fish|tiger|lion|elephant|bear|rabbit|fox|wolf|cow|sheep|pig|duck|"
    "chicken|monkey|snake|frog|butterfly|bee|spider|shark|whale|dolphin|penguin|owl|eagle|mouse|"
    "dinosaur|unicorn|monster|alien|ghost|witch|wizard|knight|princess|king|queen|pirate|ninja|"
    "superhero|astronaut|soldier|doctor|nurse|teacher|chef|farmer|policeman|fireman|dancer|singer|"
    "footballer|clown|baby|crowd|family|couple|team|car|truck|bus|train|plane|rocket|boat|ship|bicycle|"
    "motorcycle|helicopter|tractor|tank|submarine|spaceship|ufo|satellite|robot|drone|computer|phone|"
    "television|lamp|candle|clock|book|pen|table|chair|sofa|bed|door|window|house|castle|tower|bridge|"
    "church|temple|city|village|street|road|park|garden|forest|jungle|desert|mountain|hill|valley|"
    "river|lake|ocean|sea|beach|island|cave|waterfall|volcano|sky|cloud|rainbow|sun|star|planet|galaxy|"
    "fire|flame|tree|flower|rose|grass|leaf|mushroom|pumpkin|cake|bread|pizza|burger|soup|coffee|"
    "bottle|cup|plate|knife|fork|spoon|hammer|saw|sword|gun|bow|arrow|shield|crown|necklace|hat|shoe|"
    "bag|umbrella|guitar|violin|drum|trumpet|flute|saxophone|cello|harp|orchestra|band|balloon|kite|"
    "doll|teddy|puppet|cube|box|pyramid|cylinder|egg|stone|rock|brick|basketball|football|snowball|"
    "coin|diamond|statue|painting|poster|sign|flag|map|newspaper|letter|bell|whistle|siren|engine|"
    "machine|factory|bank|market|shop|restaurant|kitchen|office|school|hospital|stadium|theatre|museum|"
    "airport|station|tunnel|farm|zoo|circus|playground|pool|mirror|curtain|blanket|pillow|towel|basket|"
    "bucket|rope|chain|wheel|rocket|ladybug"
)
NOUNS_HELD_OUT = listed(
    "giraffe|kangaroo|octopus|parrot|squirrel|vampire|mermaid|cowboy|surgeon|juggler|tram|skateboard|"
    "canoe|scooter|fridge|wardrobe|lighthouse|windmill|canyon|glacier|meadow|comet|tornado|cactus|"
    "sunflower|pancake|scissors|ladder|trombone|banjo|accordion|trampoline|yoyo|domino|anchor|lantern|"
    "suitcase|typewriter|telescope|carpet"
)
DEEDS = listed(
    "flies|runs|walks|jumps|dances|sings|swims|climbs|sleeps|eats|drinks|cooks|drives|rides a horse|"
    "fights|explodes|burns|melts|grows|shines|flows|rolls|rolls away|slides|spins|floats|breaks|"
    "shatters|crashes|races|hides|waves|laughs|cries|screams|reads a book|writes a letter|"
    "paints a wall|plays football|plays guitar|attacks|escapes|takes off|transforms|disappears|appears|"
    "turns around|opens the door|picks flowers|barks|meows|roars|crawls|marches|skates|skis|surfs|"
    "dives|rotates|collapses|jumps over a fence|walks in the rain|runs away|plays the piano|"
    "plays the drums|stands up|sits down|changes colour|turns green|gets bigger|catches fire|"
    "rolls down the stairs|falls into water|flies away|floats in space|hits a wall|goes home"
)
DEEDS_HELD_OUT = listed(
    "sneezes|yawns|juggles|knits a scarf|bakes a cake|digs a hole|plays chess|evaporates|hatches|"
    "sails away|drifts through space|pours tea|rows a boat|blooms|freezes over|jumps rope|"
    "swings on a branch|shrinks|rolls under the sofa|bursts"
)
PLACES = listed(
    "in the rain|in a forest|on the beach|in space|at night|under water|in a kitchen|on a street|"
    "in the snow|on a mountain|in a garden|in a city|at sunset|in a castle|on the moon|in a car|"
    "at the park|in the sea|on stage|in a classroom|on a boat|through a tunnel|over a bridge|"
    "into a pool|into water|into a box|on fire|down the stairs|out of a window|on a roof"
)
PLACES_HELD_OUT = listed(
    "in a bakery|on a glacier|in a library|at the dentist|in a swamp|on an escalator|inside a volcano|"
    "on a trampoline|in the fog|at a wedding|in a greenhouse|into a bucket"
)
KNOWN = listed(
    "ball|red ball|metal ball|man|woman|girl|boy|child|toy piano|piano|guy|lady|glass ball|rubber ball|"
    "blue ball|kid|person|wooden ball"
)
COLOURS = listed("red|blue|green|yellow|orange|purple|black|white|big|small|little|old")
