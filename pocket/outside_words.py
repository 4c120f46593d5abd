"""Things, deeds and places that the world has not. Those of HELD_OUT are for measuring alone."""

from pocket.hand import listed

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
