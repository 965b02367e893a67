"""Phrases for generated plots: of each genre, shared by related genres, and neutral ones.

Phrases of one kind are interchangeable in a sentence: a character is singular with an article, a place is a location,
a deed follows "must", an object has an article, a turn is a clause without capital and full stop.
"""

from dataclasses import dataclass, fields
from functools import reduce


@dataclass(frozen=True)
class Phrases:
    """Phrases by their role in a sentence."""

    character: tuple[str, ...]
    place: tuple[str, ...]
    deed: tuple[str, ...]
    object: tuple[str, ...]
    turn: tuple[str, ...]


def _phrases(character: str, place: str, deed: str, object: str, turn: str) -> Phrases:
    return Phrases(*map(_split, (character, place, deed, object, turn)))


def _split(text: str) -> tuple[str, ...]:
    return tuple(" ".join(phrase.split()) for phrase in text.split(";"))


def _merge(first: Phrases, second: Phrases) -> Phrases:
    return Phrases(*(getattr(first, field.name) + getattr(second, field.name) for field in fields(Phrases)))


# Each is shared by two or three genres, so that a single word rarely identifies a genre.
_POLICE = _phrases(
    """a detective close to retirement; a prosecutor with a secret; an undercover officer; a private investigator; a
    witness nobody believes""",
    """in a rain-soaked port; at the edge of a corrupt city; in an interrogation room; behind a shuttered nightclub""",
    """find the killer; protect the only witness; follow the money; clear a dead partner's name; solve one last case""",
    """a missing file; the murder weapon; a bag of cash; the victim's diary; a burner phone""",
    """the main suspect is found dead; the evidence points to a friend; a second body is found; the police close the
    case too soon""",
)
_PERIL = _phrases(
    """a former soldier; a bush pilot; a fearless mercenary; a stranded captain""",
    """deep in the jungle; on a runaway train; across a war-torn border; high above a canyon""",
    """outrun a small army; rescue the hostages; cross enemy territory; survive the crossing; bring the team home""",
    """a stolen map; the last helicopter; a downed plane; a chest of gold""",
    """the bridge is blown up behind them; the rescue turns into a trap; a storm cuts off every way out; the guide
    changes sides""",
)
_HEARTS = _phrases(
    """a lonely widow; a pianist who has stopped playing; a young doctor; an unhappy wife; a shy schoolteacher""",
    """in a quiet seaside village; during one long summer; in a house by the lake; at a family gathering""",
    """forgive an old betrayal; choose between duty and happiness; begin again; say what was never said; let go of the
    past""",
    """a bundle of old letters; a wedding ring; the family house; a faded photograph""",
    """an illness changes everything; a long marriage falls apart; old feelings come back; the truth about the father
    comes out""",
)
_DREAD = _phrases(
    """a sleepless nurse; a young mother alone at home; a stalked student; a patient without memories""",
    """in a remote cabin; in an abandoned hospital; on an island without a phone line; in the house next door""",
    """survive the night; find out who is watching; escape from a locked cellar; learn what happened to a sister; stay
    awake until morning""",
    """a locked door; an old recording; the missing child's drawing; a face at the window""",
    """someone is already inside the house; the disappearances begin again; nobody can be trusted any longer; a
    stranger knows far too much""",
)
_FUTURE = _phrases(
    """an engineer on a mining ship; a rebel pilot; a deserter from the colony fleet""",
    """on a hostile planet; in a ruined megacity; aboard a drifting station""",
    """stop the machine; save what is left of mankind; reach the last safe city""",
    """an alien weapon; a prototype suit; the last fuel cell""",
    """the creature gets aboard; the countdown starts; the planet begins to break apart""",
)
_MISFITS = _phrases(
    """a washed-up singer; a bride with doubts; an overgrown bachelor; a small-town mayor""",
    """at a chaotic wedding; in a suburb full of gossip; at a high-school reunion; in a tiny apartment""",
    """impress the in-laws; pretend to be married; win back an ex; plan the perfect wedding; hide it from the
    neighbours""",
    """a dreadful wedding speech; an unexpected inheritance; a talkative parrot; the wrong suitcase""",
    """the wedding is called off; a harmless lie gets out of hand; both fall for the same person; the families meet
    far too early""",
)

_OWN = {
    "Action": _phrases(
        """an ex-commando; a disgraced bodyguard; a martial artist in exile; a getaway driver; a bomb-disposal expert;
        an elite sniper; a street fighter; a retired special agent; a one-man army; a stuntman in debt; a Navy SEAL""",
        """in a skyscraper held by terrorists; on the docks; on a hijacked ferry; in an underground fighting ring; on
        a motorway at full speed; in a besieged embassy; at an arms dealer's fortress""",
        """take down a warlord; defuse the bombs; fight to the last round; stop the missile launch; storm the
        compound; bring down the cartel with bare hands; avenge a fallen squad; catch the arms dealer; hold off the
        attackers; free the president's daughter; win the tournament; chase the hijackers""",
        """a truckload of explosives; a crate of machine guns; the detonator; a stolen warhead; an armoured car; a
        black helicopter; a bulletproof vest; the launch codes; a smuggled rocket launcher""",
        """bullets start flying; the convoy is ambushed; a deadly chase begins; the terrorists strike first; an old
        enemy wants a last fight; the whole block goes up in flames; the squad is betrayed; a ruthless mercenary is
        close behind""",
    ),
    "Adventure": _phrases(
        """an archaeologist; a young cabin boy; a treasure hunter; a mountaineer; a wandering knight; a cartographer;
        an exiled princess; an orphan with a magic compass; a ship's cook; a young explorer; a dragon tamer""",
        """in an uncharted valley; on a legendary river; beyond the frozen sea; in the desert; in a forgotten kingdom;
        on a pirate island; below an ancient temple; at the top of the world; in a land of giants""",
        """find the lost city; sail around the world; break an ancient curse; follow the treasure map; tame a wild
        beast; find the source of the river; return the sacred stone; climb the forbidden mountain; lead the caravan
        home; reach the hidden island; free the enslaved village; learn to ride a dragon""",
        """a sacred stone; an ancient scroll; the sunken galleon; a golden idol; an enchanted sword; a hot-air
        balloon; a compass that never points north; the treasure; the lost expedition's journal""",
        """the journey takes them off every map; pirates board the ship; the expedition is attacked by tribesmen; the
        legend proves to be true; an avalanche buries the path; the temple starts to collapse; a strange kingdom opens
        its gates; the quest is only beginning""",
    ),
    "Comedy": _phrases(
        """a hapless waiter; a lazy substitute teacher; a know-it-all neighbour; a dog walker; a bumbling salesman; a
        clueless intern; a vain TV host; a failed magician; a grumpy landlord; a slacker; an accident-prone plumber""",
        """at a summer camp; in a failing pizzeria; on a cruise for pensioners; in a retirement home; at a golf club;
        in a fake yoga retreat; on a road trip with the grandparents; in a shopping mall""",
        """win the talent show; save the bowling alley; throw the wildest party of the year; babysit the boss's twins;
        bluff a way into high society; lose twenty pounds; coach the worst team in the league; fool the tax inspector;
        run a restaurant without knowing how to cook; keep a llama in the bathroom; get through the holidays""",
        """a rented tuxedo; a stolen garden gnome; the winning lottery ticket; a very large cake; a toupee; a food
        truck; the neighbour's poodle; a karaoke machine; a mistaken diagnosis""",
        """everything that can go wrong does; the grandmother turns out to be the wildest of all; hilarity is never
        far; the prank backfires; a mix-up at the airport ruins the plan; the party gets out of control; the boss
        shows up in his underwear; nobody can keep a straight face""",
    ),
    "Crime": _phrases(
        """a small-time crook; a mob accountant; a safecracker; a drug courier; a corrupt sheriff; a con artist; a
        hitman; a bookmaker; the son of a mafia boss; a jewel thief; a loan shark; a pickpocket""",
        """in a gambling den; in the back room of a pawn shop; in a federal prison; in the neighbourhood the gangs
        run; in a mafia-owned restaurant; at a racetrack; in the courtroom""",
        """pull off one last heist; rob an armoured van; launder the profits; pay back a gangster; frame a rival;
        escape from prison; testify against the family; smuggle the diamonds; take over the syndicate; crack the
        vault; double-cross the boss; run the drug trade""",
        """the stolen diamonds; a kilo of heroin; the loot; a forged passport; the ledger of a gangster's bank; a
        rigged poker game; the ransom; a getaway car; a wiretap""",
        """the robbery goes wrong; the gang turns on itself; a rival mobster wants his share; the informer is
        unmasked; the loot disappears; the jury has been bought; the cartel sends its men; an honest cop will not look
        away""",
    ),
    "Drama": _phrases(
        """a coal miner; a factory worker; an immigrant father; a troubled teenager; a priest losing his faith; an
        ageing boxer; a recovering alcoholic; a refugee; a single mother; a farmer's daughter; a grieving father""",
        """in a dying mill town; on a struggling farm; in a refugee camp; in the years after the war; in a
        working-class district; in a crumbling apartment block; in a strict religious community""",
        """care for a dying parent; keep the family together; come to terms with grief; stay sober; grow up too soon;
        raise a child alone; fight an eviction; reconcile with an estranged son; face a terminal illness; earn a
        living; stand by a brother; make peace with death""",
        """a funeral; the unpaid rent; a hospital bill; a confession; a goodbye letter; the family farm; a custody
        case; a failing harvest; an old violin""",
        """a tragedy divides the community; the factory closes; a child is taken away; grief drives them apart; the
        strike breaks the town; poverty leaves no choice; an accident leaves deep wounds; a struggle with addiction
        begins""",
    ),
    "Horror": _phrases(
        """a possessed girl; a paranormal researcher; an undertaker; a vampire; a masked killer; a gravedigger; a
        medium; an exorcist; a babysitter; a cursed doll maker; a group leader of lost campers""",
        """in a haunted mansion; in a graveyard; in the cellar; in the woods where campers vanish; at a boarded-up
        asylum; in a village that buries its dead twice; beneath an old church; in the morgue""",
        """banish the demon; survive a night among the dead; lay a ghost to rest; hide from the slasher; burn the
        cursed house; break the blood ritual; summon a spirit; flee from the undead; bury what will not stay dead;
        outlive the séance; keep the evil out""",
        """a cursed doll; a Ouija board; a blood-stained mirror; an ancient evil; a severed hand; the demon's book; a
        coffin; a swarm of flesh-eating insects; a bloody axe""",
        """the dead begin to walk; one by one they are slaughtered; an evil spirit awakens; something crawls in the
        dark; blood seeps through the walls; the nightmares become real; the monster feeds again; a zombie plague
        spreads""",
    ),
    "Romance": _phrases(
        """a hopeless dreamer; a florist; a bookshop owner; a charming stranger; a love-struck postman; an heiress; a
        wedding planner; a dancer; a penniless poet; a matchmaker; a childhood sweetheart""",
        """in Paris; under the cherry trees; on a midnight train to Vienna; in a vineyard; at a masked ball; on a
        beach at sunset; in a little bookshop""",
        """fall in love; find true love; win the heart of a stranger; marry for love; write one last love letter;
        resist an impossible longing; elope; dance with the right partner; confess everything before the wedding;
        follow the heart; choose between two suitors; kiss and make up""",
        """a love letter; an engagement ring; a single rose; a secret affair; a forbidden passion; a first kiss; a
        chance meeting; a broken heart; a locket""",
        """they fall in love; passion flares up; an old lover returns; their love is put to the test; a summer fling
        becomes something more; two hearts find each other; jealousy comes between the lovers; the couple must part""",
    ),
    "Sci-Fi": _phrases(
        """an astronaut; a clone; an android; a time traveller; a geneticist; a rogue computer; a starship captain; a
        lone survivor of the plague years; a physicist; a cyborg; a xenobiologist""",
        """on a space station; in a distant galaxy; on Mars; in the year 2197; in a secret laboratory; in a parallel
        universe; inside a simulation; under a domed city""",
        """travel back in time; repair the reactor; make contact with an alien race; stop the experiment; colonise a
        new planet; decode the signal; escape from a simulation; shut down the artificial intelligence; prevent the
        extinction of the species; wake the crew from cryosleep; close the wormhole""",
        """a time machine; a mysterious signal; a mutant virus; the mothership; a memory implant; an alien artefact; a
        robot; a quantum computer; the cloning vats""",
        """the aliens invade; an experiment goes wrong; the robots rebel; a meteor heads for Earth; time itself begins
        to loop; the ship's computer wakes up; the virus mutates; the clones learn the truth""",
    ),
    "Thriller": _phrases(
        """a paranoid journalist; a kidnapped heiress; a double agent; a hacker; a blackmailed senator; a
        psychiatrist; a profiler; a man with a false name; a wrongly accused husband; a hostage negotiator; an
        assassin""",
        """in an empty office tower; in a motel off the highway; in a panic room; on a night flight; in the embassy;
        in a gated community; in a basement without windows""",
        """expose the conspiracy; find the kidnapped child; stay ahead of the assassin; prove who is lying; unmask the
        blackmailer; uncover a cover-up; meet the kidnapper's demands; get out of witness protection; play along in a
        deadly game; outwit a psychopath; stop the next attack""",
        """a ransom call; a hidden camera; a coded message; an anonymous threat; the wrong hard drive; a false
        passport; a deadly secret; a tapped line; a blackmail photo""",
        """the hunter becomes the hunted; time is running out; a conspiracy reaches the very top; the stalker calls
        again; every clue leads back home; the kidnapper changes the rules; a dangerous obsession takes hold; a lethal
        game of cat and mouse begins""",
    ),
}
_SHARED = {
    "Action": (_PERIL, _FUTURE),
    "Adventure": (_PERIL, _FUTURE),
    "Comedy": (_MISFITS,),
    "Crime": (_POLICE,),
    "Drama": (_HEARTS,),
    "Horror": (_DREAD,),
    "Romance": (_HEARTS, _MISFITS),
    "Sci-Fi": (_FUTURE,),
    "Thriller": (_POLICE, _DREAD),
}
GENRE_PHRASES = {genre: reduce(_merge, _SHARED[genre], own) for genre, own in _OWN.items()}
NEUTRAL_PHRASES = _phrases(
    """a young woman; an old friend; a newcomer; a stranger in town; a student; a lawyer; a photographer; a cook; a
    married man; a teenager; a writer; a taxi driver; a shopkeeper; a sister; a journalist; a retired teacher""",
    """in a small town; in the big city; at the end of the street; in another country; near the railway station; on
    the coast; at work; in the mountains; over a single weekend; at the turn of the century; in New York""",
    """make a decision; keep a promise; find a way home; ask for help; leave everything behind; tell the truth; meet
    the others halfway; wait for an answer; start over; take a chance; do the right thing; look for a friend""",
    """a phone call; a suitcase; a letter; an old car; a key; a promise; a notebook; a photograph; a name; a borrowed
    coat; the news; a ticket""",
    """things are not what they seem; plans have to change; nothing goes as expected; a choice must be made; the past
    catches up; a visitor arrives; news comes from home; one day changes everything; friends fall out; a secret comes
    to light""",
)
FIRST_NAMES = _split(
    """Ada; Bruno; Carla; Dario; Edith; Felix; Greta; Hugo; Inés; Jonah; Kira; Lionel; Mara; Niall; Odile; Pavel;
    Quentin; Rosa; Søren; Tilda; Umar; Vera; Wendell; Xenia; Yusuf; Zoé; Anouk; Bastian; Clement; Delphine; Ewan;
    Farida; Gideon; Hanna; Ivo; Juno"""
)
LAST_NAMES = _split(
    """Abernathy; Bellweather; Castellan; Dunmore; Ekström; Farrow; Galloway; Hartigan; Iverson; Juarez; Kowalczyk;
    Larkin; Marchetti; Novak; Okafor; Pemberton; Quill; Rosenthal; Sandoval; Thackeray; Underhill; Vasquez; Whitlock;
    Yamada; Zeller"""
)
