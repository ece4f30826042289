"""Wordings of the instructions, by family. "{question}" and "{names}" are filled in for each example."""

import dataclasses
import itertools
import re


@dataclasses.dataclass(frozen=True)
class Wordings:
    """How one family's instruction is worded.

    Attributes:
      trained: what training draws from; evaluation uses the first.
      unseen: never trained; mostly the words of `trained`, in other combinations.
    """

    trained: tuple[str, ...]
    unseen: tuple[str, ...]


def expand(pattern: str) -> tuple[str, ...]:
    """All wordings of a pattern, the last choice varying fastest; parentheses are not nested.

    "(give|show) me (the|) words" stands for

        give me the words
        give me words
        show me the words
        show me words
    """
    choices = [part.split("|") for part in re.split(r"[()]", pattern)]
    return tuple(" ".join("".join(chosen).split()) for chosen in itertools.product(*choices))


_TRAINED: dict[str, tuple[str, ...]] = {
    "transcribe": (
        "transcribe the speech", "write down what is said", "what does the speaker say", "give the transcript",
        "recognize the speech", "(transcribe|write down|type) (the words|what you hear|what the speaker says)",
        "(please|can you) (transcribe|recognize|write out) (the sentence|what is said)",
        "(give|show) me (the transcript of the speech|every word)",
        "what (words|sentence) (do you hear|does the speaker say)",
        "i (want|need) (the transcript|the words) (of the speech|)", "which words are (said|in the speech)",
        "repeat (the sentence|the speaker) word for word",
        "(write|put) down the words (that the speaker says|of the sentence)",
        "what are the words of the (speech|sentence)",
        "(say|list|give) (all|the) words (that are said|the speaker says)", "write the (speech|sentence) out",
        "(write|type) (everything the speaker says|the sentence as it is said)", "put (the speech|it) into writing",
        "i would like to read (what is said|the words)", "say again what the speaker says",
        "transcribe (the speaker|the sentence of the speaker)", "(write|type) what you hear from the speaker",
        "give the transcript of the speaker", "every word of the speaker please",
    ),
    "bias": (
        "transcribe the speech these names may occur {names}", "write down what is said names to expect {names}",
        "give the transcript possible names are {names}", "recognize the speech with the name list {names}",
        "type the words you hear one of these names may be in it {names}",
        "(transcribe|write down|recognize) (the sentence|what you hear) (possible|likely) names are {names}",
        "(please|can you) (transcribe|type) (the speech|what is said) (names to expect are|with the names) {names}",
        "(give|show) me the transcript one of these names may (occur|be said) {names}",
        "the names {names} may occur (transcribe the speech|write down what is said)",
        "with (these names|the name list) {names} (transcribe the sentence|type what you hear)",
        "what does the speaker say (these names may be in it|the name list is) {names}",
        "i want the (transcript|words) and expect the names {names}",
        "here are (possible names|names to expect) {names} (recognize|write down) the speech",
    ),
    "translate_de": (
        "translate the speech into german", "say it in german", "give a german translation", "what is it in german",
        "write the german for what you hear", "translate (it|the sentence|what is said|what you hear) (into|to) german",
        "(put|change|turn) (it|what is said|the words) into german",
        "(please|can you) (say|write) (the sentence|the speech) in german",
        "(give|show) me the german (translation|sentence|words)", "how do you say (it|that|the sentence) in german",
        "what (is|would be) the german (for it|for what is said|translation)",
        "i (want|need) (it in german|a german translation)", "german (please|translation)",
        "give the german for the words of the speaker",
    ),
    "translate_es": (
        "translate the speech into spanish", "say it in spanish", "give a spanish translation", "what is it in spanish",
        "write the spanish for what you hear",
        "translate (it|the sentence|what is said|what you hear) (into|to) spanish",
        "(put|change|turn) (it|what is said|the words) into spanish",
        "(please|can you) (say|write) (the sentence|the speech) in spanish",
        "(give|show) me the spanish (translation|sentence|words)", "how do you say (it|that|the sentence) in spanish",
        "what (is|would be) the spanish (for it|for what is said|translation)",
        "i (want|need) (it in spanish|a spanish translation)", "spanish (please|translation)",
        "give the spanish for the words of the speaker",
    ),
    "question": (
        "answer the question {question}", "{question}", "listen and answer {question}", "please tell me {question}",
        "question {question} answer", "(listen and|can you) (tell me|say) {question}",
        "(here is a|here is my|this is my|i have a) question {question}",
        "{question} (please answer|tell me|answer the question|that is the question)",
        "(please|can you) answer (this|my question|the question) {question}", "i (want|need) to know {question}",
        "i would like (an answer|to hear) {question}", "do you know {question}",
        "from what (you hear|is said) (tell me|answer) {question}",
        "give (me|) the answer to (the question|this) {question}", "(my|the) question (is|) {question}",
        "how would you answer {question}", "write the answer to {question}", "what do you answer to {question}",
    ),
    "continuation": (
        "continue the story", "what happens next", "say the next sentence", "go on from what is said",
        "write what follows", "(please|can you) (continue|go on with) the (story|sentence|speech)",
        "(say|write|tell me) (what comes next|what happens then|the following sentence)",
        "what (comes next|follows|happens then|comes after that)", "how does the (story|speech) (continue|go on)",
        "(write|give me|make up) (the next sentence|a sentence that follows)",
        "what (is|would be|could be) the next sentence", "i want to (know|hear) what (happens next|follows)",
        "continue (from here|what is said|)",
        "write a sentence that (continues the story|comes next|goes on from this)",
        "what would the speaker say next", "how would you continue (it|the story|what is said)",
    ),
    "reply": (
        "reply to the speaker", "answer the speaker", "what would you say back", "respond to what is said",
        "give a friendly reply", "(please|can you) (reply|respond) to (the speaker|what is said|this)",
        "what (would|do) you (reply|answer the speaker|say to that|say to the speaker)",
        "(give|write) (a reply|a response|an answer) to (the speaker|what you hear)",
        "say something (back|friendly|) to the speaker", "how (do|would) you (reply|respond) (to the speaker|)",
        "(talk|speak) with the speaker", "i want (a reply|your reply|you to reply)",
        "(write|make up) a (kind|good) (reply|answer)", "write (something|a sentence) (back|in reply)",
        "what is a (good|friendly) (response|answer) (to the speaker|)", "write your (answer|response) to the sentence",
        "how (could|should) i (answer|respond to) (this|the speaker)", "reply in a friendly way",
        "let the speaker have (a response|your answer)", "i would like your (reply|response)",
    ),
    "tense": (
        "change the tense", "swap past and present", "put it in the other tense",
        "rewrite the sentence with the tense changed", "turn past into present or present into past",
        "(change|swap|flip) the tense of (the verb|what is said|the speech)",
        "(please|can you) (change|switch) the (tense|verb tense)",
        "(say|write|rewrite) (it|the sentence) in the other tense",
        "(say|write) the sentence with (the other tense|past and present swapped)",
        "switch (between past and present|from one tense to the other)",
        "(put|turn) (what is said|the verb) into the other tense", "what is (it|the sentence) in the other tense",
        "make past present and present past", "i (want|need) the other tense",
    ),
    "negation": (
        "negate the sentence", "say that it is not so", "deny what is said", "make the sentence negative",
        "put a not into the sentence", "(please|can you) (negate|deny) (the sentence|what is said|it)",
        "(say|write|tell me) (the negation of the sentence|that it is not true)",
        "(say|write|give) the (negative sentence|negated sentence|negation)", "(add|put in) (a not|the word not)",
        "(turn|rewrite|change) (the sentence|it) into (a negation|a negative sentence)",
        "say the sentence with (a not|not) in it", "what is the negation (of the sentence|of what is said|)",
        "i want the sentence (negated|with a not)",
    ),
    "summary": (
        "summarize the speech", "give the gist", "say it in short", "give a short summary", "shorten the sentence",
        "(please|can you) (summarize|shorten) (the sentence|what is said|the speech)",
        "(give|show) me (the gist|a summary|a short sentence)",
        "(say|write|tell me) (the gist|what is said in short|it without details)",
        "what is the (gist|summary) (of the speech|of what is said|)", "make (it|the sentence) (short|shorter)",
        "(leave out|drop) (what is not needed|all small details)", "only (the gist|the main thing) please",
        "summarize (it|what you hear) in (short|a few words)", "summarize the speaker",
        "i (want|need) (the gist|a short summary)",
    ),
    "number": (
        "swap singular and plural", "change the number of the object", "turn one into many or many into one",
        "rewrite with singular and plural exchanged", "put the noun in the other number",
        "(please|can you) (swap|exchange) singular and plural", "(switch|swap) the number of (the noun|the object)",
        "(turn|change) singular into plural (or|and) plural into singular",
        "make one (thing|object) many (or|and) many one",
        "(say|write|rewrite) (it|the sentence) (in|with) the other number",
        "put (the object|it|the sentence) (in|into) the other number",
        "what is (it|the sentence) with (the other number|singular and plural swapped)",
        "i (want|need) the (object|noun) in the other number", "make a singular plural and a plural singular",
        "(please|can you) (change|switch) the number of the noun",
    ),
    "opposite": (
        "use the opposite adjectives", "replace each adjective by its opposite", "say it with opposite adjectives",
        "turn the adjectives around", "rewrite with the opposite adjective",
        "(please|can you) (use|say it with) (the opposite adjectives|opposites)",
        "(swap|exchange) (each|every) adjective for (its|the) opposite",
        "replace (the adjectives|all adjectives) (by|with) (opposites|their opposites)",
        "(say|write|rewrite) the sentence with (opposite|the opposite) adjectives",
        "turn (each|every|the) adjective (around|into its opposite)",
        "what is (it|the sentence) with opposite adjectives",
        "(give|use) the opposite of (the adjective|each adjective|all adjectives)",
        "i want (the opposite adjectives|opposites of the adjectives)",
    ),
    "place": (
        "name the place", "which place is mentioned", "where is it", "tell me the place only", "extract the location",
        "(please|can you) (name|give|tell me) (the place|the location)",
        "(what|which) (place|location) (do you hear|is it)", "where (does it happen|is this|was it|does it take place)",
        "(give|find|extract) (only the place|the place in the sentence|the place that is mentioned)",
        "i (want|need) to know (the place|where it is|the location)", "(say|write) where it (is|happens)",
        "only the (place|location) please", "at (what|which) place does it happen",
    ),
    "time": (
        "name the time", "which time is mentioned", "when is it", "tell me the time only",
        "extract the time expression", "(please|can you) (name|give|tell me) the (time|time expression)",
        "(what|which) (time|time expression) (do you hear|is it)",
        "when (does it happen|is this|was it|does it take place)",
        "(give|find|extract) (only the time|the time in the sentence|the time that is mentioned)",
        "i (want|need) to know (the time|when it is)", "(say|write) when it (is|happens)",
        "only the (time|time expression) please", "at (what|which) time does it happen",
        "the time (given|mentioned) in the sentence",
    ),
    "object": (
        "name the object", "what is the object of the sentence", "tell me the object only", "extract the direct object",
        "which object is mentioned", "(please|can you) (name|extract|tell me) the (object|direct object)",
        "(what|which) object do you hear", "what is the (object|direct object) (of the verb|of the speech|)",
        "(give|find|say) (only the object|the object of the sentence|the direct object)",
        "i (want|need) (to know the object|the direct object)",
        "(write|show me) the object (of the sentence|that is mentioned)", "only the (object|direct object) please",
        "which (word is|words are) the object",
    ),
    "subject": (
        "name the subject", "what is the subject of the sentence", "tell me the subject only", "extract the subject",
        "who or what is it about", "(please|can you) (name|extract|tell me) the (subject|subject of the sentence)",
        "(what|which) subject (do you hear|is mentioned)", "what is the subject (of the verb|of the speech|)",
        "(give|find|say) (only the subject|the subject of the verb|the subject that you hear)",
        "i (want|need) (to know the subject|only the subject)",
        "(write|show me) the subject (of the sentence|that is mentioned)", "only the subject please",
        "which (word is|words are) the subject", "who (or what|) is the subject",
    ),
    "name": (
        "which name is mentioned", "name the person by name", "tell me the proper name", "extract the name",
        "is there a name and which", "(please|can you) (tell me|give|extract) the (name|proper name)",
        "(what|which) name (do you hear|is said|is in the sentence)",
        "(find|say|write) (the name of the person|the proper name|only the name)",
        "what is the (name|proper name) (in the sentence|of the person|)", "who is (named|mentioned by name)",
        "is a name (said|mentioned) and which", "i (want|need) to know the (name|proper name)",
        "only the (name|proper name) please", "what is the person called",
    ),
    "category": (
        "what is the topic", "name the topic", "which category is it", "classify the sentence by topic",
        "what is the sentence about", "(please|can you) (name|give|tell me) the (topic|category)",
        "(what|which) topic is (it|the sentence|the speech) about",
        "(what|which) category (does it belong to|is this|fits the sentence)",
        "(say|find|write) the (topic|category) of (the sentence|what is said)",
        "classify (it|what is said|the speech) by (topic|category)", "i (want|need) to know the (topic|category)",
        "only the (topic|category) please",
    ),
    "sentiment": (
        "is it positive negative or neutral", "what is the sentiment", "classify the sentiment",
        "how does the sentence feel", "name the mood of the sentence",
        "(please|can you) (name|classify|judge) the (sentiment|mood)",
        "is (the sentence|what is said|the speech) (positive or negative|positive negative or neutral)",
        "(what|which) (mood|feeling|sentiment) (do you hear|is it)",
        "what is the (mood|feeling) of (the sentence|the speech|the speaker)",
        "how does (it|what is said|the speaker) feel",
        "(say|tell me) if (it|the sentence) is positive negative or neutral",
        "i want to know the (sentiment|mood|feeling)",
        "judge (the sentiment of the sentence|if it is positive or negative)",
    ),
    "word_count": (
        "count the words", "how many words are there", "how many words do you hear", "tell me the number of words",
        "give the word count", "(please|can you) count (the words|all words|every word) (in the sentence|)",
        "how many words (does the sentence have|are in the sentence|are said|does the speaker say)",
        "(say|write|give me) (how many words there are|the number of words)",
        "what is the (word count|number of words) (of the sentence|)",
        "count (every word|all words|the words you hear|the words of the speaker)",
        "i (want|need) (the word count|to know how many words there are)",
        "(name|find|show me) the (word count|number of words)", "only the (word count|number of words) please",
        "how long is it in words",
    ),
}  # fmt: skip

_UNSEEN: dict[str, tuple[str, ...]] = {
    "transcribe": (
        "type the words you hear", "please write down every word", "can you give me the transcript",
        "i need the speech word for word", "show me what is said", "write out the words of the speaker",
        "transcribe every word you hear", "i need you to type the sentence", "which words do you hear",
        "recognize what the speaker says word for word",
    ),
    "bias": (
        "transcribe with these names in mind {names}", "write down the speech the names may be {names}",
        "please recognize what is said with the name list {names}",
        "can you write down the sentence names to expect are {names}",
        "type the speech one of these names may occur {names}",
        "give me the words you hear these names are possible {names}", "what is said these names may occur {names}",
        "i want the transcript with the names {names}", "show me what the speaker says possible names are {names}",
        "here is the name list {names} transcribe what you hear",
    ),
    "translate_de": (
        "put the sentence into german", "please translate what you hear into german",
        "can you put the speech into german", "how would you say the sentence in german",
        "i want the german for what you hear", "write what is said in german", "what is the sentence in german",
        "tell me in german what is said", "show me how you say it in german", "turn the speech into a german sentence",
    ),
    "translate_es": (
        "put the sentence into spanish", "please translate what you hear into spanish",
        "can you put the speech into spanish", "how would you say the sentence in spanish",
        "i want the spanish for what you hear", "write what is said in spanish", "what is the sentence in spanish",
        "tell me in spanish what is said", "show me how you say it in spanish",
        "turn the speech into a spanish sentence",
    ),
    "question": (
        "i would like to know {question}", "please listen and tell me {question}", "please say {question}",
        "answer me {question}", "{question} please tell me", "{question} what is the answer",
        "from what you hear {question}", "i want you to answer {question}", "this question needs an answer {question}",
        "here is what i want to know {question}",
    ),
    "continuation": (
        "how does it go on", "please say what follows", "can you tell me what happens next",
        "tell me the next sentence", "how does it continue", "what comes after what is said",
        "go on with what happens next", "i want you to continue the story", "please write the sentence that comes next",
        "which sentence follows",
    ),
    "reply": (
        "give the speaker a friendly answer", "please answer the speaker", "can you say something back",
        "how would you answer what is said", "what is your reply to the speaker", "write a friendly response",
        "reply to what you hear", "what do you say back", "i want you to respond to the speaker",
        "tell the speaker something back",
    ),
    "tense": (
        "switch the tense of the sentence", "swap the tense", "please put the sentence in the other tense",
        "can you say it in the other tense", "write what is said with the tense changed",
        "change past to present and present to past", "i want the sentence with the verb in the other tense",
        "exchange past and present", "rewrite it with past and present swapped",
        "turn the sentence into the other tense",
    ),
    "negation": (
        "rewrite it as a negation", "negate what you hear", "please make the sentence negative",
        "can you say that it is not so", "write the sentence with a not in it", "i want you to negate the sentence",
        "deny the sentence", "put the word not into the sentence", "give me the sentence negated",
        "turn what is said into a negation",
    ),
    "summary": (
        "leave out the details", "please give a summary", "can you say it in short",
        "summarize the sentence without details", "shorten what you hear", "tell me in a few words what is said",
        "write a short summary of the speech", "what is the sentence in short", "i want a summary of what is said",
        "make what is said shorter",
    ),
    "number": (
        "switch between singular and plural", "please put the noun in the other number",
        "can you change the number of the object", "exchange singular and plural",
        "turn a singular into a plural or a plural into a singular",
        "say the sentence with singular and plural swapped", "swap one and many",
        "i want the sentence in the other number", "rewrite it with the number changed",
        "make the singular plural or the plural singular",
    ),
    "opposite": (
        "swap the adjectives for their opposites", "please turn the adjectives around",
        "can you replace the adjectives by opposites", "change each adjective into its opposite",
        "say the opposite of each adjective", "write it with the opposite adjectives",
        "exchange the adjectives for opposites", "rewrite the sentence with every adjective turned around",
        "i want the sentence with opposite adjectives", "use an opposite for every adjective",
    ),
    "place": (
        "what is the location", "name the location", "tell me where it happens", "please extract the place",
        "which location is mentioned", "can you say where it is", "find the location in the sentence",
        "what is the place in the sentence", "i want the place only", "where does this take place",
    ),
    "time": (
        "what is the time given", "which time expression is mentioned", "tell me when it happens",
        "please extract the time", "when does this happen", "can you say when it is",
        "find the time expression in the sentence", "what time is given in the sentence", "i want the time only",
        "say only the time",
    ),
    "object": (
        "give the object", "please tell me the object of the sentence", "which direct object is mentioned",
        "can you find the object", "what object is in the sentence", "extract only the object",
        "i want the object of the verb", "name the direct object of the sentence", "say which words are the object",
        "show me only the direct object",
    ),
    "subject": (
        "give the subject", "please tell me the subject of the verb", "can you find the subject",
        "who is the subject of the sentence", "what subject is in the sentence", "extract only the subject",
        "i want the subject of the sentence", "name who or what the subject is", "say which words are the subject",
        "show me only the subject",
    ),
    "name": (
        "give the name you hear", "which proper name is mentioned", "please name the person by name",
        "can you say the name of the person", "tell me which name is said", "extract only the proper name",
        "i want the name in the sentence", "find the name that is mentioned", "is there a proper name and which is it",
        "who is named in the sentence",
    ),
    "category": (
        "give the category", "what is the category of the sentence", "please classify the sentence by category",
        "tell me which topic it is", "can you say what topic it is about", "find the category it belongs to",
        "i want the topic of the sentence", "which topic fits what is said", "sort the sentence by topic",
        "write only the topic",
    ),
    "sentiment": (
        "judge the feeling of what is said", "please tell me the sentiment",
        "can you say if it is positive or negative", "which mood does the sentence have",
        "name the feeling of the sentence", "classify what is said as positive negative or neutral",
        "what is the sentiment of the speech", "tell me how the sentence feels",
        "i want to know if it is positive negative or neutral", "is the mood positive or negative",
    ),
    "word_count": (
        "how long is the sentence in words", "please give the word count", "can you tell me how many words there are",
        "count the words that are said", "how many words is it", "what is the count of the words",
        "say the number of words you hear", "tell me the word count of the sentence", "i want you to count the words",
        "show me how many words the sentence has",
    ),
}  # fmt: skip

WORDINGS: dict[str, Wordings] = {
    family: Wordings(
        trained=tuple(itertools.chain.from_iterable(map(expand, patterns))),
        unseen=_UNSEEN[family],
    )
    for family, patterns in _TRAINED.items()
}
