r"""LaTeX that a model wrote into JSON with one backslash where JSON wants two.

JSON reads `\frac` as a form feed and "rac", `\nu` as a line break and "u", and refuses `\alpha`. A backslash is doubled
where what follows is plainly LaTeX: one of its commands whose other reading is no text. Commands whose other reading
may be text (`\nu`: a line break and "u"; `\ne`, `\tan`) are taken for LaTeX by what stands before them. What is
left over stays as it is, for the parser to refuse.
"""

from __future__ import annotations

import re

_NAMES = """
alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa varkappa lambda mu nu xi omicron pi varpi
rho varrho sigma varsigma tau upsilon phi varphi chi psi omega digamma Gamma Delta Theta Lambda Xi Pi Sigma Upsilon
Phi Psi Omega aleph beth gimel daleth hbar hslash ell wp Re Im imath jmath partial infty nabla emptyset varnothing
prime backprime degree angle measuredangle sphericalangle triangle triangledown triangleleft triangleright
trianglelefteq trianglerighteq square blacksquare Box Diamond lozenge star bigstar bullet cdot cdots ldots vdots ddots
dots dotsb dotsc frac dfrac tfrac cfrac binom dbinom tbinom genfrac sqrt root over atop choose sum prod coprod int
iint iiint oint bigcup bigcap bigsqcup bigvee bigwedge bigodot bigotimes bigoplus biguplus lim limsup liminf max min
sup inf arg det dim ker hom gcd deg Pr exp ln log lg sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth
injlim projlim varlimsup varliminf argmax argmin operatorname mod bmod pmod pod times div pm mp ast circ oplus ominus
otimes oslash odot cap cup sqcap sqcup uplus wedge land vee lor setminus smallsetminus amalg dagger ddagger wr ltimes
rtimes bowtie Join cdotp centerdot le leq leqslant ge geq geqslant ne neq equiv sim simeq approx cong doteq propto
asymp ll gg lll ggg prec succ preceq succeq subset supset subseteq supseteq subsetneq supsetneq sqsubset sqsupset
sqsubseteq sqsupseteq in ni notin owns mid nmid parallel nparallel perp vdash dashv models vDash Vdash smile frown
lessgtr gtrless lesssim gtrsim lessapprox gtrapprox thickapprox thicksim between pitchfork not nless ngtr nleq ngeq
nleqslant ngeqslant nprec nsucc npreceq nsucceq nsim ncong nsubseteq nsupseteq nvdash nvDash nVdash nVDash
ntriangleleft ntriangleright ntrianglelefteq ntrianglerighteq neg lnot forall exists nexists therefore because top bot
to gets mapsto longmapsto leftarrow rightarrow Leftarrow Rightarrow leftrightarrow Leftrightarrow longleftarrow
longrightarrow Longleftarrow Longrightarrow longleftrightarrow Longleftrightarrow iff implies impliedby uparrow
downarrow updownarrow Uparrow Downarrow Updownarrow nearrow searrow swarrow nwarrow nleftarrow nrightarrow nLeftarrow
nRightarrow nleftrightarrow nLeftrightarrow hookleftarrow hookrightarrow leftharpoonup leftharpoondown rightharpoonup
rightharpoondown upharpoonleft upharpoonright rightleftharpoons leftrightharpoons twoheadleftarrow twoheadrightarrow
leftarrowtail rightarrowtail rightsquigarrow leadsto xleftarrow xrightarrow restriction left right big Big bigg Bigg
bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm middle langle rangle lceil rceil lfloor rfloor lbrace rbrace lbrack
rbrack lvert rvert lVert rVert vert Vert lgroup rgroup ulcorner urcorner llcorner lrcorner backslash hat widehat check
tilde widetilde acute grave dot ddot dddot breve bar vec overline underline overbrace underbrace overrightarrow
overleftarrow underrightarrow underleftarrow overset underset underbar stackrel substack boxed cancel phantom hphantom
vphantom smash mathrm mathbf mathit mathsf mathtt mathcal mathbb mathfrak mathscr mathnormal boldsymbol bm pmb text
textbf textit textrm textsf texttt textsc textsl textup textmd textnormal textcolor textstyle textsuperscript
textsubscript textdegree textmu emph underbracket rm bf it sf tt sc displaystyle scriptstyle scriptscriptstyle limits
nolimits begin end item hline cline multicolumn multirow label ref eqref cite tag notag nonumber newline newpage
newcommand renewcommand noindent normalsize tiny small large Large huge Huge footnotesize bfseries itshape ttfamily
rmfamily quad qquad hspace vspace hfill vfill rule raisebox mbox hbox fbox framebox parbox section subsection
subsubsection paragraph title author date document usepackage documentclass caption includegraphics centering footnote
url href color colorbox ce si SI num unit pu flat natural sharp clubsuit diamondsuit heartsuit spadesuit checkmark dag
ddag copyright pounds euro aa ae oe ss AA AE OE lt gt
"""
_COMMANDS = frozenset(_NAMES.split())
_OTHER_READING = {
    "nu": False,
    **dict.fromkeys(("ne", "ni", "neg", "nmid", "nless", "nparallel", "nexists", "tan", "tag"), True),
}
"""Commands that begin like an escape whose other reading may be text; True where that text is a word by itself."""

_WORD = re.compile(r"[A-Za-z]+")
_ESCAPE = re.compile(r"\\(?:u[0-9A-Fa-f]{4}|([A-Za-z]+|.))", re.DOTALL)
_SYMBOLS = frozenset("()[]{},;:!%$_&#| ")
_OPENERS = frozenset("$([{=^_+-*/<>|&,")


def mend(text: str) -> tuple[str, list[int]]:
    """`text` of JSON with single backslashes of LaTeX doubled, and where in the result the added ones stand."""
    matches = [m for m in _ESCAPE.finditer(text) if m[1]]
    doubled = any(m[1] == "\\" and _command_at(text, m.end()) for m in matches)
    plain = any(_plain(m[1]) for m in matches)
    pieces: list[str] = []
    added: list[int] = []
    done = length = 0
    for m in matches:
        if not _single(text, m, plain=plain, doubled=doubled):
            continue
        piece = text[done : m.start()]
        count = 2 if m[1] == "\\" else 1
        added += [length + len(piece) + i for i in range(count)]
        pieces += [piece, "\\" * count]
        length += len(piece) + count
        done = m.start()
    return "".join([*pieces, text[done:]]), added


def _plain(word: str) -> bool:
    """Whether what follows a backslash can be LaTeX alone."""
    return word in _SYMBOLS or (word in _COMMANDS and word not in _OTHER_READING)


def _single(text: str, match: re.Match[str], *, plain: bool, doubled: bool) -> bool:
    """Whether the backslash is LaTeX's own. `plain`: the text has such ones; `doubled`: it has doubled ones."""
    word = match[1]
    if word == "\\":
        # A line break of LaTeX, where nothing else is doubled.
        return plain and not doubled and text[match.end() : match.end() + 1].isspace()
    if word not in _OTHER_READING:
        return _plain(word)
    if doubled and not plain:
        return False
    start = match.start()
    before = text[text.rfind('"', 0, start) + 1 : start]
    if before.count("$") % 2 or _last(before, r"\(", r"\[") > _last(before, r"\)", r"\]"):
        return True
    # At the end of a line stands a letter or a full stop; in front of a command an opening or a single blank.
    stands = not before or before[-1] in _OPENERS or (before[-1] == " " and not before[-2:-1].isspace())
    return stands and (plain or not _OTHER_READING[word])


def _last(text: str, *what: str) -> int:
    return max(text.rfind(w) for w in what)


def _command_at(text: str, start: int) -> bool:
    word = _WORD.match(text, start)
    return word is not None and word[0] in _COMMANDS
