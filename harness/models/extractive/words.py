"""Small closed lists of English words that the extractive generator needs in place of a parser.

A tagger or parser would be a model and a download. The lists are short on purpose: what they do not know is skipped,
and another sentence is used.
"""

from __future__ import annotations


def word_list(listed: str) -> frozenset[str]:
    """The words of `listed`, which are separated by white space."""
    return frozenset(listed.split())


STOPWORDS = word_list(
    """a about above after again against all also although among an and another any are as at be because been before
    being below between both but by can could did do does doing done down due during each either else ever every few for
    from further had has have having he hence her here hers him his how however i if in into is it its itself just least
    less like made make many may me might more most much must my nearly neither no nor not now of off often on once one
    only onto or other others our out over own per perhaps quite rather same she should since so some still such than
    that the their them then there therefore these they this those though through thus to too toward towards under until
    up upon us using very via was we well were what when where whereas whether which while who whom whose why will with
    within without would yet you your two three four five six seven eight nine ten first second third respectively
    vs versus et al among upon used use uses another several various"""
)
"""Words that are never a term and never begin or end a topic."""

GENERIC = word_list(
    """aim aims analysis analyses article author authors background base based case cases change changes cohort
    common comparison compared conclusion conclusions consecutive control controls current data day days design
    determine difference differences different effect effects evaluate evaluated evaluation examined factor factors
    finding findings follow-up found group groups high higher hospital hours important included including increase
    increased independent large level levels low lower main material materials mean measure measured measures median
    method methods minutes month months new number objective objectives observed outcome outcomes overall participants
    patient patients percent period possible present previous primary purpose rate rates ratio received recent related
    report reported results retrospective retrospectively prospective sample score scores setting showed significant
    significantly similar small statistical statistically studies study subject subjects test tests time times total
    treated type university value values week weeks year years years' age men women male female thing things way part
    general great good little long man people called known fact question questions purpose investigate assess
    assessed performed associated association available chapter book key points point years old"""
)
"""Words that any study or book uses: poor answers and poor topics."""

BE = word_list("is are was were")
HAVE = word_list("has have had")
MODALS = word_list("can could may might must should will would")
LEXICAL = word_list(
    """accounted affects appeared appears became begins belongs causes comprised consisted consists constitutes
    contains continued decreases depends develops differed exhibited gave holds improves includes increases involves
    lasted leads led lies makes means needs occurred occurs plays predicts produces provides ranged received recommends
    reduces reflects refers remained remains represents requires resulted reveals seemed seems shows showed suffered
    suggests supports took underwent uses varied varies yielded"""
)
"""Verb forms that are finite wherever they stand."""

SUBORDINATORS = word_list("although though while when if because since whereas as unless until once whether that")
INTRODUCTIONS = word_list(
    """in on after by during from among at with of for using under over within without across before between
    compared overall today here"""
)
"""First words of a phrase that may stand before the subject, up to a comma."""

DEPENDENT = word_list(
    """it they this these those he she such there its their his her here one both most some many others another
    which who that neither either thus then so"""
)
"""First words that point back at an earlier sentence."""

OPEN_SUBJECT = word_list("who which that whose whether if when where why how there and or but what no only not none to")
"""Words that, at the start of a subject or inside it, show that it is not one that can be asked about."""

TRAILING = word_list("and or of the a an in on by with to for as than from at who which that was were is are")
"""Words that cannot end a subject."""

RUBRIC_WORDS = word_list(
    """question questions answer answers multiple choice fill blank short essay prompt response clear clarity concise
    unambiguous document domain relevant relevance correct focus focused language grammar type ask write format
    single specific knowledge text information must ensure quality reader reading content source precise model
    student students understanding reasoning options option plausible distractors distractor key main central"""
)
"""Words of rubrics that say nothing of what to ask about."""

FIRST_PERSON = word_list("we our us ours i my me")
