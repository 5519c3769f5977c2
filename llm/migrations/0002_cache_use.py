from django.db import migrations


class Migration(migrations.Migration):

    dependencies = [
        ('billing', '0002_llm_budgets'),
        ('llm', '0001_initial'),
    ]

    operations = [
        migrations.CreateModel(
            name='CacheUse',
            fields=[
            ],
            options={
                'verbose_name': 'model cache',
                'verbose_name_plural': 'model cache',
                'proxy': True,
                'indexes': [],
                'constraints': [],
            },
            bases=('billing.llmusage',),
        ),
    ]
