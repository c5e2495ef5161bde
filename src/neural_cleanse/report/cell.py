"""A ScanResult as a notebook shows it: verdict, chart of sizes, the triggers of what was flagged. No script."""

import jinja2
from markupsafe import Markup

from neural_cleanse.report import charts
from neural_cleanse.report.pictures import data_uri, enlargement, trigger_pictures
from neural_cleanse.report.text import HEADLINE, Titles, line, sentence
from neural_cleanse.results.records import ScanResult, Verdict
from neural_cleanse.text import escape

TRIGGERS_SHOWN = 6
COLOUR = {Verdict.INFECTED: "#b3261e", Verdict.CLEAN: "#1b6e3c", Verdict.INCONCLUSIVE: "#8a5a00"}
TEMPLATE = """<div class="neural-cleanse">
<p><strong style="color: {{ colour }}">{{ headline }}</strong><br>{{ sentence }}</p>
<div style="max-width: 40em">{{ chart }}</div>
{% for title, pictures in triggers %}
<p>{{ title }}:
{% for name, picture in pictures.items() %}
<img src="{{ picture }}" alt="{{ name }} of label {{ title }}" title="{{ name }}" style="image-rendering: pixelated">
{% endfor %}
</p>
{% endfor %}
{% for note in notes %}
<p><small>note: {{ note }}</small></p>
{% endfor %}
</div>"""


def cell(result: ScanResult) -> str:
    """The fragment of HTML, every name and note escaped."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    titles = Titles(result)
    shown = [pair for pair in result.flagged_pairs if pair in result.triggers][:TRIGGERS_SHOWN]
    grow = enlargement(result.image_shape[1])
    return environment.from_string(TEMPLATE).render(
        colour=COLOUR[result.verdict],
        headline=HEADLINE[result.verdict],
        sentence=escape(line(result) if result.verdict is Verdict.CLEAN else sentence(result)),
        chart=Markup(charts.sizes(result)),
        triggers=[
            (
                f"Label {titles.pair(pair)}",
                {name: data_uri(image, grow) for name, image in trigger_pictures(dict(result.triggers[pair])).items()},
            )
            for pair in shown
        ],
        notes=[escape(note) for note in result.provenance.notes],
    )
