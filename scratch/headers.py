"""Rewrites COST and SCORE in the headers of gin/experiments/claims from docs/ledger/*.json."""
import glob, json, re, sys
where = sys.argv[1] if len(sys.argv) > 1 else "one core"
TRAINED = {"instructions": ("transcribe", "translate_de", "question"), "recognition_only": ("transcribe",)}
SHOWN = (("transcribe/wer", "WER {:.1f}"), ("translate_de/bleu", "German BLEU {:.1f}"), ("translate_es/bleu", "Spanish BLEU {:.1f}"),
         ("question/exact_match", "question {:.1f}% exact"), ("reply/bleu", "reply BLEU {:.1f}"))
for path in sorted(glob.glob("docs/ledger/*.json")):
    record = json.load(open(path))
    gin = record.get("gin_file", "")
    if not gin.startswith("experiments/claims/") or record["name"].startswith("study"):
        continue
    score = {key: value["score"] for key, value in record["scores"].items()}
    trained = TRAINED.get(record["name"], ("transcribe", "translate_de"))
    texts = {key: form.format(score[key]) for key, form in SHOWN}
    first = [text for key, text in texts.items() if key.split("/")[0] in trained]
    never = [text for key, text in texts.items() if key.split("/")[0] not in trained]
    words = f"{', '.join(first)}; never trained with speech: {', '.join(never)}"
    if record["name"] == "train_lm":
        words += ". Asked in writing: " + ", ".join(f"{score['text_' + key]:.1f}" for key in ("translate_es/bleu", "question/exact_match", "reply/bleu")) + "; frozen TODO"
    words += " (docs/ledger.md)"
    lines, line = [], "# SCORE   "
    for word in words.split():
        if len(line) + 1 + len(word) > 110:
            lines.append(line); line = "#         "
        line += " " + word
    lines.append(line)
    minutes, seconds = divmod(int(record["seconds"]), 60)
    text = open("gin/" + gin).read()
    new = re.sub(r"# COST.*?(?=\n#\n|\nfrom )", lambda _: f"# COST     {minutes}:{seconds:02d} on {where}\n" + "\n".join(lines), text, count=1, flags=re.S)
    open("gin/" + gin, "w").write(new)
