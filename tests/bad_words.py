"""Words of a command line that cannot be meant, each with the whole of what is said."""

from dataclasses import fields

from bam_lightning.config.compose import conf_dir
from bam_lightning.config.data_config import TaskConfig
from bam_lightning.config.job_config import StageConfig


def files(group: str) -> str:
    """Return the choices of a group, as they are listed."""
    return ", ".join(sorted(path.stem for path in (conf_dir() / group).glob("*.yaml") if path.stem != "schema"))


def own(group: str) -> str:
    """Return what is said of one's own files of a group."""
    return f"; files of your own need 'hydra.searchpath=[file://DIR]', as DIR/{group}/NAME.yaml"


WORDS = {
    "seed==3": (
        "'seed==3' is not of the form name=value (extraneous input '='); put quotes around a value with special "
        "characters, as in 'name=\"a, b\"'"
    ),
    "seed": (
        "'seed' is not of the form name=value (missing EQUAL at '<EOF>'); put quotes around a value with special "
        "characters, as in 'name=\"a, b\"'"
    ),
    "=3": "'=3' is not of the form name=value: it has no name",
    "suite.include={a:b}": "suite.include={{a:b}}: must be a list, as in [a, b], got a mapping",
    "seed='": (
        "\"seed='\" is not of the form name=value (LexerNoViableAltException: seed=' ^); put quotes around a value "
        "with special characters, as in 'name=\"a, b\"'"
    ),
    "seed=": "Error merging override seed=: Value '' of type 'str' could not be converted to Integer",
    "seed=1.5": "Error merging override seed=1.5: Value '1.5' of type 'float' could not be converted to Integer",
    "seed={a:1}": (
        "Error merging override seed={{a:1}}: Value '{{'a': 1}}' of type 'dict' could not be converted to Integer"
    ),
    "+seed=1": (
        "Could not append to config. An item is already at 'seed'. Either remove + prefix: 'seed=1' Or add a "
        "second + to add or override 'seed': '++seed=1'"
    ),
    "~nothing": "Could not delete from config. 'nothing' does not exist.",
    "encoder=null": "encoder=null: encoder takes the name of a file, as --help lists them; give encoder=NAME",
    "recipe=3": "recipe=3: recipe takes the name of a file, as --help lists them; give recipe=NAME",
    "suite=glu": f"no suite 'glu'; choices: {files('suite')}; did you mean 'glue'?",
    "+experiment=single_mulit": (
        f"no experiment 'single_mulit'; choices: {files('experiment')}; did you mean 'single_multi'?"
    ),
    "experiment=single": "no experiment is set that could be replaced; add one with +experiment=NAME",
    "+tsk@suite.tasks.x=rte": (
        "Override +tsk@suite.tasks.x=rte looks like a config group override, but config group 'tsk' does not exist."
    ),
    "+task@suite.task.x=rte": (
        "no option 'suite.task'; did you mean 'suite.tasks'?; a task is added with +task@suite.tasks.NAME=FILE"
    ),
    "+task@mine=rte": "no option 'mine'; a task is added with +task@suite.tasks.NAME=FILE",
    "+task@suite.tasks.x=rtee": f"no task 'rtee'; choices: {files('task')}; did you mean 'rte'?",
    "task=rte": "no task is set that could be replaced; add one with +task@suite.tasks.NAME=FILE",
    "suite.include=sentiment": "suite.include=sentiment: must be a list; put it into brackets, as in [sentiment]",
    "suite.include=[sentimet]": (
        "suite.include names 'sentimet'; choices: acceptability, sentiment, paraphrase, similarity, "
        "question_paraphrase, entailment, answer_entailment, small_entailment; did you mean 'sentiment'?"
    ),
    "suite.include=null": "suite.include=null: must have a value, got null; leave it out for its default",
    "suite.tasks.sentiment.text=[1,2]": "suite.tasks.sentiment.text must name columns, got [1, 2]",
    "suite.tasks.sentiment.text='{a.b}'": (
        "suite.tasks.sentiment.text: template '{{a.b}}': braces hold the plain name of a column, as in {{body}}; write "
        "{{{{ and }}}} for braces of the text"
    ),
    "suite.tasks.sentiment.metrc=f1": (
        "no option 'suite.tasks.sentiment.metrc'; did you mean 'suite.tasks.sentiment.metric'?"
    ),
    "suite.tasks.sentiment.head.label_names=[a,'']": (
        "suite.tasks.sentiment.head.label_names must be at least 2 different names, got ['a', '']"
    ),
    "suite.tasks.similarity.head.label_range=[0,inf]": (
        "suite.tasks.similarity.head.label_range must be [lowest, highest], got [0.0, inf]"
    ),
    "suite.tasks.sentiment.train_rows=1000000000000": (
        "suite.tasks.sentiment.train_rows must be at most 100000000, got 1000000000000"
    ),
    "suite.tasks.sentiment=null": (
        "suite.tasks.sentiment=null: must have a value, got null; leave it out for its default"
    ),
    "+suite.tasks.mine.path=x": (
        f"+suite.tasks.mine.path=x: must be a mapping of {', '.join(field.name for field in fields(TaskConfig))}, "
        "in a YAML file of its group; got dict"
    ),
    "data=nope": f"no data 'nope'; choices: default{own('data')}",
    "data.seed=-1": "data.seed must be at least 0, got -1",
    "data.max_length=100000000000000000000": ("data.max_length must be at most 100000000, got 100000000000000000000"),
    "data.workers=1000000": "data.workers must be at most 1024, got 1000000",
    "recipe.stages.student.kind=foo": (
        "Error merging override recipe.stages.student.kind=foo: Invalid value 'foo', expected one of [finetune, "
        "pretrain]"
    ),
    "recipe.stages.student.seeds=1000000000": "recipe.stages.student.seeds must be at most 1000, got 1000000000",
    "recipe.stages.single.per_task=maybe": (
        "Error merging override recipe.stages.single.per_task=maybe: Value 'maybe' is not a valid bool (type str)"
    ),
    "+recipe.stages.more={teacher:student}": (
        "+recipe.stages.more={{teacher:student}}: must be a mapping of "
        f"{', '.join(field.name for field in fields(StageConfig))}, in a YAML file of its group; got dict"
    ),
    "optimization.epochs=1e300": "optimization.epochs must be at most 1e+06, got 1e+300",
    "optimization.learning_rate=nan": "optimization.learning_rate must be above 0, got nan",
    "optimization.lr_schedule=cubic": (
        "Error merging override optimization.lr_schedule=cubic: Invalid value 'cubic', expected one of [linear, bert, "
        "constant]"
    ),
    "optimization.single.batch_siz=3": (
        "no option 'optimization.single.batch_siz'; did you mean 'optimization.single.batch_size'?"
    ),
    "sampler=foo": f"no sampler 'foo'; choices: {files('sampler')}{own('sampler')}",
    "distillation=none": f"no distillation 'none'; choices: {files('distillation')}{own('distillation')}",
    "teachers=[a]": ("teachers=[a]: must be a mapping of names to values (name: value), got a list"),
    "distillation.teacher_margin=7": (
        "distillation.teacher_margin is 7.0, but scores lie between -1 and 1; give the least distance from the "
        "commonest answer's score, or null for none"
    ),
    "trainer=tpu": f"no trainer 'tpu'; choices: {files('trainer')}; did you mean 'gpu'?",
    "trainer.max_steps=1e3": "trainer.max_steps must be a whole number, got 1000.0",
    "run.checkpoint_minutes=nan": "run.checkpoint_minutes must be above 0, got nan",
    "logger=tensorboard": f"no logger 'tensorboard'; choices: {files('logger')}{own('logger')}",
    "logger.tags=abc": "logger.tags=abc: must be a list; put it into brackets, as in [abc]",
    "paths.store=null": "paths.store=null: must have a value, got null; leave it out for its default",
    "scale=tiny": f"no scale 'tiny'; choices: {files('scale')}{own('scale')}",
    "fidelity=null": "fidelity=null: fidelity takes the name of a file, as --help lists them; give fidelity=NAME",
    "+debug=foo": f"no debug 'foo'; choices: {files('debug')}{own('debug')}",
    "+foo=bar": "no option 'foo'",
    "seed=${nothing}": "seed: Interpolation key 'nothing' not found",
    "seed=${seed}": "seed: Recursive interpolation detected",
    "suite.name=???": "no value for suite.name; give each one, as in suite.name=VALUE",
    "encoder.pretraining.vocab_size=0": "encoder.pretraining.vocab_size must be at least 1, got 0",
    "encoder.pretraining.seed=-1": "encoder.pretraining.seed must be at least 0, got -1",
    "encoder.pretraining.sentences=1000000000000": (
        "encoder.pretraining.sentences must be at most 100000000, got 1000000000000"
    ),
    "scale=small encoder.path=''": (
        "encoder 'minilm' needs either path=HUB_ID_OR_DIR or model_config, got path= and model_config=None"
    ),
    "hydra.searchpath=/nowhere": "hydra.searchpath must be a list of folders; write 'hydra.searchpath=[/nowhere]'",
    "data=[1]": "data takes the name of a file, as --help lists them, got a list of others; give data=NAME",
    "suite=[null]": "suite takes the name of a file, as --help lists them, got a list of others; give suite=NAME",
    "recipe=[{a:1}]": ("recipe takes the name of a file, as --help lists them, got a list of others; give recipe=NAME"),
}
